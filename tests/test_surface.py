"""A loss surface against torch's own modules and dense Hessians in float64."""

from dataclasses import replace

import pytest
import torch
from torch.nn.modules.batchnorm import BatchNorm2d

from sharpcli.data import Dataset, one_hot
from sharpcli.losses.cross_entropy import cross_entropy
from sharpcli.losses.half_squared import half_squared
from sharpcli.models.cnn import cnn
from sharpcli.models.mlp import mlp
from sharpcli.models.resnet import resnet
from sharpcli.problems.network import network
from sharpcli.surface import LossSurface

MODELS = {
    "mlp": lambda s, c: mlp(s, c, widths=[4, 3], activation="tanh"),
    "cnn": lambda s, c: cnn(s, c, widths=[2, 2], activation="gelu", pool="average"),
    "cnn_max": lambda s, c: cnn(s, c, widths=[2], activation="tanh", pool="max"),
    "resnet_group": lambda s, c: resnet(s, c, depth=8, width=1, norm="group", groups=1, skip=True),
    "resnet_batch": lambda s, c: resnet(s, c, depth=8, width=1, norm="batch", groups=1, skip=True),
    "resnet_plain": lambda s, c: resnet(s, c, depth=8, width=1, norm="none", groups=1, skip=False),
}


def data(n: int) -> Dataset:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n + 5, 1, 8, 8, generator=g)
    y = one_hot(torch.randint(0, 3, (n + 5,), generator=g), 3)
    return Dataset(x[:n], y[:n], x[n:], y[n:], classes=True)


def problem(model, loss=half_squared, chunk=5, batchnorm="batch", budget=2**31, n=13):
    cpu = torch.device("cpu")
    return network(1, cpu, chunk, budget, data(n), model, loss, dtype="float64", batchnorm=batchnorm)


def dense(model, loss, w, batches):
    """The Hessian of the weighted mean loss, row by row, through a module whose parameters are set from w."""
    module = model((1, 8, 8), 3).double()
    names = [name for name, _ in module.named_parameters()]

    def value(w):
        start, parameters = 0, {}
        for name, p in zip(names, module.parameters(), strict=True):
            parameters[name] = w[start : start + p.numel()].reshape(p.shape)
            start += p.numel()
        total = sum(len(y) for _, y in batches)
        return sum(loss(torch.func.functional_call(module, parameters, (x,)), y) * len(y) / total for x, y in batches)

    return torch.autograd.functional.hessian(value, w), torch.autograd.functional.jacobian(value, w), value(w)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss", [half_squared, cross_entropy])
def test_value_gradient_and_products_are_those_of_a_dense_computation_with_unequal_batches(name, loss):
    p = problem(MODELS[name], loss)
    assert [len(y) for _, y in p.surface.batches] == [5, 5, 3]
    H, g, value = dense(MODELS[name], loss, p.w0, p.surface.batches)
    V = torch.randn(3, len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(p.surface.value(p.w0), value, rtol=1e-12)
    for budget, kept in ((2**31, True), (0, False)):
        at = replace(p.surface, graph_budget=budget).linearize(p.w0)
        assert at.kept is kept
        assert torch.allclose(at.grad, g, rtol=1e-9, atol=1e-12)
        assert torch.allclose(at.hvp(V), V @ H, rtol=1e-8, atol=1e-10)
        assert torch.allclose(at.hvp(V[0]), V[0] @ H, rtol=1e-8, atol=1e-10)
    assert torch.allclose(p.surface.hvp(p.w0, V[1]), V[1] @ H, rtol=1e-8, atol=1e-10)


def test_a_ragged_batch_counts_by_its_size_and_not_as_a_whole_one():
    x = torch.tensor([[1.0], [1.0], [3.0]], dtype=torch.float64)
    y = torch.zeros(3, 1, dtype=torch.float64)
    surface = LossSurface(lambda w, x: x * w, half_squared, ((x[:2], y[:2]), (x[2:], y[2:])))
    w = torch.tensor([1.0], dtype=torch.float64)
    assert surface.value(w).item() == pytest.approx(11 / 6)  # the mean of the batches' means would be 2.5
    assert surface.hvp(w, w).item() == pytest.approx(11 / 3)


def test_losses_have_the_stated_constants():
    f, y = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert half_squared(f, y).item() == pytest.approx((4 + 1) / 2 / 2)
    assert half_squared(f, y).item() == pytest.approx(torch.nn.functional.mse_loss(f, y).item() * 2 / 2)
    assert cross_entropy(f, y).item() == pytest.approx(torch.nn.functional.cross_entropy(f, y.argmax(1)).item())


def test_a_network_starts_where_torch_would_and_computes_what_its_module_computes():
    p = problem(MODELS["cnn"])
    torch.manual_seed(1)
    module = MODELS["cnn"]((1, 8, 8), 3).double()
    assert torch.equal(p.w0, torch.nn.utils.parameters_to_vector(module.parameters()))
    x, _ = p.examples
    assert torch.equal(p.surface.predict(p.w0, x), module(x))


def test_the_graph_s_size_is_estimated_within_a_tenth():
    for name in ("mlp", "resnet_group"):
        p = problem(MODELS[name], n=400, chunk=400)
        assert p.surface.graph_bytes(p.w0) == pytest.approx(p.surface._graph_bytes(p.w0), rel=0.1)


def test_a_surface_leaves_generators_gradients_and_modes_as_they_were():
    p = problem(MODELS["resnet_batch"])
    w, before = p.w0.clone(), torch.get_rng_state()
    p.surface.linearize(w).hvp(w)
    p.scores(w)
    assert torch.equal(torch.get_rng_state(), before)
    assert w.grad is None and not w.requires_grad and torch.equal(w, p.w0)


def test_a_linear_loss_has_the_hessian_zero():
    surface = LossSurface(lambda w, x: x * w, lambda f, y: f.sum(), ((torch.ones(1, 2), torch.ones(1, 1)),))
    assert torch.equal(surface.hvp(torch.ones(2), torch.ones(2)), torch.zeros(2))


def test_batch_statistics_make_the_loss_a_function_of_the_weights_alone():
    p = problem(MODELS["resnet_batch"])
    assert torch.equal(p.surface.value(p.w0), p.surface.value(p.w0))
    assert p.at(p.w0) is p.surface


def test_population_statistics_are_those_of_all_training_images_weighted_by_batch_size():
    p = problem(MODELS["resnet_batch"], batchnorm="population")
    x, _ = p.examples
    first = MODELS["resnet_batch"]((1, 8, 8), 3).double()[0]
    with torch.no_grad():
        first.weight.copy_(p.w0[:9].view(1, 1, 3, 3))
        z = first(x)
    kept = {}
    fixed = p.at(p.w0)

    def note(module, inputs, outputs):
        if isinstance(module, BatchNorm2d):
            kept.setdefault("norm", module)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    fixed.predict(p.w0, x[:2])
    hook.remove()
    assert torch.allclose(kept["norm"].running_mean, z.mean((0, 2, 3)), rtol=1e-10)
    assert torch.allclose(kept["norm"].running_var, z.var((0, 2, 3), correction=0), rtol=1e-10)


def test_under_population_statistics_an_example_s_output_does_not_depend_on_its_batch():
    x = data(13).x_train.double()
    for policy, same in (("population", True), ("batch", False)):
        p = problem(MODELS["resnet_batch"], batchnorm=policy)
        here = p.at(p.w0)
        assert torch.allclose(here.predict(p.w0, x[:4])[:2], here.predict(p.w0, x[:2]), rtol=1e-9) is same
    assert p.scores(p.w0)["train_loss"] != problem(MODELS["resnet_batch"], batchnorm="population").scores(p.w0)["train_loss"]
