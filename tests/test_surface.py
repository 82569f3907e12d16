"""A loss surface against torch's own modules and dense Hessians in float64."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import BatchNorm2d

from sharpcli.data import Dataset, one_hot
from sharpcli.errors import Refusal
from sharpcli.landscape.compiled_products import BREAK_EVEN_PRODUCTS
from sharpcli.landscape.distributed import ALONE
from sharpcli.landscape.second_derivatives import agreement
from sharpcli.landscape.surface import UNKNOWN_BYTES, LossSurface
from sharpcli.landscape.third_derivatives import check_third_derivatives
from sharpcli.losses.cross_entropy import cross_entropy
from sharpcli.losses.half_squared import half_squared
from sharpcli.models import Patches
from sharpcli.models.cnn import cnn
from sharpcli.models.mixer import mixer
from sharpcli.models.mlp import mlp
from sharpcli.models.resnet import resnet
from sharpcli.models.vit import vit
from sharpcli.problems.network import network

MODELS = {
    "mlp": lambda s, c: mlp(s, c, widths=[4, 3], activation="tanh"),
    "relu": lambda s, c: mlp(s, c, widths=[8, 6], activation="relu"),
    "cnn": lambda s, c: cnn(s, c, widths=[2, 2], activation="gelu", pool="average"),
    "cnn_max": lambda s, c: cnn(s, c, widths=[2], activation="tanh", pool="max"),
    "resnet_group": lambda s, c: resnet(s, c, depth=8, width=1, norm="group", groups=1, skip=True),
    "resnet_batch": lambda s, c: resnet(s, c, depth=8, width=1, norm="batch", groups=1, skip=True),
    "resnet_plain": lambda s, c: resnet(s, c, depth=8, width=1, norm="none", groups=1, skip=False),
    "vit": lambda s, c: vit(s, c, patch=4, width=4, depth=1, heads=2),
    "mixer": lambda s, c: mixer(s, c, patch=4, width=4, depth=1),
}


def data(n: int) -> Dataset:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n + 5, 1, 8, 8, generator=g)
    y = one_hot(torch.randint(0, 3, (n + 5,), generator=g), 3)
    return Dataset(x[:n], y[:n], x[n:], y[n:], classes=True)


def problem(model, loss=half_squared, chunk=5, batchnorm="batch", budget=2**31, n=13, compile="auto"):
    cpu = torch.device("cpu")
    return network(
        1,
        cpu,
        chunk,
        budget,
        compile,
        ALONE,
        None,
        data(n),
        model,
        loss,
        dtype="float64",
        batchnorm=batchnorm,
    )


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
        return sum(
            loss(torch.func.functional_call(module, parameters, (x,)), y) * len(y) / total for x, y in batches
        )

    with sdpa_kernel(SDPBackend.MATH):
        return (
            torch.autograd.functional.hessian(value, w),
            torch.autograd.functional.jacobian(value, w),
            value(w),
        )


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


@pytest.mark.parametrize("name", ["mlp", "resnet_group", "resnet_batch"])
def test_large_batches_are_cut_for_products_unless_their_examples_depend(name, monkeypatch):
    p = problem(MODELS[name], cross_entropy, chunk=13)
    V = torch.randn(2, len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = p.surface.linearize(p.w0)
    bytes_of_all = p.surface.graph_bytes(p.w0)
    assert [len(y) for _, y in p.surface.in_pieces(p.w0, bytes_of_all).batches] == [13]
    monkeypatch.setattr("sharpcli.landscape.surface.PIECE_BYTES", bytes_of_all // 4)
    monkeypatch.setattr("sharpcli.landscape.surface.PIECE_VECTORS", 0)
    pieces = [len(y) for _, y in p.surface.in_pieces(p.w0, bytes_of_all).batches]
    assert pieces == ([13] if name == "resnet_batch" else [3, 3, 3, 4])
    assert [len(y) for _, y in p.surface.in_pieces(p.w0, UNKNOWN_BYTES).batches] == [13]
    for budget in (2**31, 0):
        cut = replace(p.surface, graph_budget=budget).linearize(p.w0)
        assert torch.allclose(cut.hvp(V), whole.hvp(V), rtol=1e-9, atol=1e-12)
        assert torch.allclose(cut.grad, whole.grad, rtol=1e-9, atol=1e-12)
        assert torch.allclose(cut.ggn(V), whole.ggn(V), rtol=1e-9, atol=1e-12)
        assert torch.allclose(cut.second_moment(V), whole.second_moment(V), rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates itself
def test_compiled_products_are_those_of_the_graph_and_auto_compiles_where_it_pays_alone():
    p, slow = (problem(MODELS["mlp"], cross_entropy, compile=when) for when in ("true", "false"))
    V = torch.randn(2, len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fast = p.surface.compiled.product(p.surface.predict, torch.device("cpu"), 1)
    assert fast is not None  # unequal batches: two shapes
    try:
        p.surface.hvp(p.w0, V)
    except Refusal as refusal:  # torch before 2.8, which compiles them to 0
        assert "torch.compile gives wrong Hessian products" in str(refusal)
        return
    assert torch.allclose(p.surface.hvp(p.w0, V), slow.surface.hvp(p.w0, V), rtol=1e-9, atol=1e-12)
    auto = problem(MODELS["mlp"]).surface
    for device, count, compiles in (
        ("cuda", BREAK_EVEN_PRODUCTS, False),
        ("cpu", 1, False),
        ("cuda", 1, True),
    ):
        assert (auto.compiled.product(auto.predict, torch.device(device), count) is not None) == compiles
    assert auto.compiled.product(lambda w, x: x, torch.device("cuda"), 1) is None  # made for other outputs


@pytest.mark.filterwarnings("ignore")
def test_a_machine_that_cannot_compile_is_refused_in_a_line(monkeypatch):
    def broken(function):
        def fails(*_):
            raise RuntimeError("no compiler\nmore")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    p = problem(MODELS["mlp"], compile="true")
    with pytest.raises(Refusal, match="torch.compile fails here .no compiler.; take compile_products=false"):
        p.surface.hvp(p.w0, p.w0)


def test_wrong_compiled_products_are_refused_where_asked_for_and_otherwise_not_used(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function: lambda w, v, x, y: torch.zeros_like(w))
    p = problem(MODELS["mlp"], compile="true")
    with pytest.raises(Refusal, match=r"wrong Hessian products in torch \S+; take compile_products=false"):
        p.surface.hvp(p.w0, p.w0)
    auto = problem(MODELS["mlp"]).surface
    on_gpu = auto.compiled.product(auto.predict, torch.device("cuda"), BREAK_EVEN_PRODUCTS + 1)
    x, y = auto.batches[0]
    plain = auto.single((x, y)).hvp(p.w0, p.w0)
    for _ in range(2):
        assert torch.allclose(on_gpu(p.w0, p.w0, x, y), plain, rtol=1e-9, atol=1e-12)
    assert auto.compiled.product(auto.predict, torch.device("cuda"), 1) is None


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
    assert cross_entropy(f, y).item() == pytest.approx(
        torch.nn.functional.cross_entropy(f, y.argmax(1)).item()
    )


def test_a_network_starts_where_torch_would_and_computes_what_its_module_computes():
    p = problem(MODELS["cnn"])
    torch.manual_seed(1)
    module = MODELS["cnn"]((1, 8, 8), 3).double()
    assert torch.equal(p.w0, torch.nn.utils.parameters_to_vector(module.parameters()))
    x, _ = p.examples
    assert torch.equal(p.surface.predict(p.w0, x), module(x))


@pytest.mark.parametrize("name", ["cnn", "resnet_group", "vit", "mixer"])
def test_models_of_images_refuse_other_inputs(name):
    with pytest.raises(
        Refusal, match=rf"model={name.split('_')[0]} takes images .* these inputs are \[8\]: use model=mlp"
    ):
        MODELS[name]((8,), 3)


def test_patches_are_a_convolution_with_stride_and_a_vit_s_blocks_torch_s_own_encoder():
    x = torch.randn(5, 3, 8, 12, dtype=torch.float64)
    patches = Patches("vit", (3, 8, 12), 4, 7).double()
    convolution = torch.nn.Conv2d(3, 7, 4, stride=4).double()
    convolution.weight.data, convolution.bias.data = patches.embed.weight.view(7, 3, 4, 4), patches.embed.bias
    assert patches.tokens == 6 and torch.allclose(
        patches(x), convolution(x).flatten(2).transpose(1, 2), atol=1e-12
    )
    net = vit((3, 8, 12), 2, patch=4, width=6, depth=2, heads=3).double()
    for p in net.parameters():  # a norm starts as the identity, whichever it is
        p.data += 0.3 * torch.randn_like(p)
    seen = net[1](net[0](x))
    assert torch.equal(seen, net[0](x) + net[1].position) and net[1].position.shape == (6, 6)
    for block in net[2:4]:
        torch_s = torch.nn.TransformerEncoderLayer(
            6, 3, 24, 0.0, "gelu", batch_first=True, norm_first=True
        ).double()
        ours = [block.attend, block.project, block.network[0], block.network[2], block.norm1, block.norm2]
        for theirs, mine in zip(
            torch_s.parameters(), [p for layer in ours for p in layer.parameters()], strict=True
        ):
            theirs.data = mine.data
        assert torch.allclose(block(seen), torch_s(seen), atol=1e-12)
        seen = block(seen)
    assert torch.allclose(net(x), net[6](net[4](seen).mean(1)), atol=1e-12)


def test_a_mixer_mixes_tokens_and_then_channels():
    net = mixer((1, 8, 8), 3, patch=2, width=6, depth=1).double()
    for p in net.parameters():  # a norm starts as the identity, whichever it is
        p.data += 0.3 * torch.randn_like(p)
    x, block = torch.randn(2, 1, 8, 8, dtype=torch.float64), net[1]
    t = net[0](x)
    for n in range(2):
        u = t[n] + block.tokens(block.norm1(t[n]).T).T
        v = u + block.channels(block.norm2(u))
        assert torch.allclose(net(x)[n], net[4](net[2](v).mean(0)), atol=1e-12)
    assert block.tokens[0].weight.shape == (3, 16) and block.channels[0].weight.shape == (24, 6)


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
    assert (
        p.scores(p.w0)["train_loss"]
        != problem(MODELS["resnet_batch"], batchnorm="population").scores(p.w0)["train_loss"]
    )


def per_example(p, w):
    """For each example its outputs' Jacobian [C, D], gradient [D] and Hessian of its loss in the outputs [C,
    C]."""
    x, y = p.examples
    out = []
    for i in range(len(y)):
        J = torch.autograd.functional.jacobian(lambda w, i=i: p.surface.predict(w, x[i : i + 1])[0], w)
        f = p.surface.predict(w, x[i : i + 1])[0]
        slope, curved = (
            kind(lambda f, i=i: p.surface.loss(f[None], y[i : i + 1]), f)
            for kind in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian)
        )
        out.append((J, J.T @ slope, curved))
    return out


@pytest.mark.parametrize("name", ["mlp", "resnet_group", "cnn_max"])
@pytest.mark.parametrize("loss", [half_squared, cross_entropy])
def test_gauss_newton_and_second_moment_are_those_of_single_examples(name, loss):
    p = problem(MODELS[name], loss)
    V = torch.randn(3, len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = per_example(p, p.w0)
    G = sum(J.T @ curved @ J for J, _, curved in found) / len(found)
    M = sum(torch.outer(g, g) for _, g, _ in found) / len(found)
    for budget in (2**31, 0):
        at = replace(p.surface, graph_budget=budget).linearize(p.w0)
        assert torch.allclose(at.ggn(V), V @ G, rtol=1e-8, atol=1e-11)
        assert torch.allclose(at.ggn(V[0]), G @ V[0], rtol=1e-8, atol=1e-11)
        assert torch.allclose(at.second_moment(V), V @ M, rtol=1e-8, atol=1e-11)


def test_gauss_newton_counts_a_penalty_with_its_own_hessian():
    p = problem(MODELS["mlp"])
    v = torch.randn(len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with_penalty = replace(p.surface, penalty=lambda w: 0.35 * w.square().sum())
    extra = with_penalty.linearize(p.w0).ggn(v) - p.surface.linearize(p.w0).ggn(v)
    assert torch.allclose(extra, 0.7 * v, rtol=1e-9)


def test_a_third_derivative_that_torch_does_not_have_is_refused_and_one_that_it_has_is_right():
    p = problem(MODELS["resnet_batch"])
    v, h = torch.ones_like(p.w0), 1e-5
    try:
        check_third_derivatives(p.surface, p.w0)
        slope = p.surface.curvature_grad(p.w0, v[None]) @ v
    except Refusal as refusal:  # torch 2.14 has no such derivative, torch 2.6 a wrong one
        assert "third derivative" in str(refusal) and "another layer" in str(refusal)
    else:
        ends = [float(p.surface.hvp(p.w0 + s * h * v, v) @ v) for s in (1, -1)]
        assert float(slope) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4)


class Square(torch.autograd.Function):
    """3 x^2, whose own derivative is right and has none."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 3 * x**2

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 6 * x.detach() * g


class Cube(torch.autograd.Function):
    """x^3 with a right second and a wrong third derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        return Square.apply(ctx.saved_tensors[0]) * g


def test_a_wrong_third_derivative_is_refused_and_kinks_are_not():
    def cubic(shape, outputs):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.f = torch.nn.Linear(64, outputs)

            def forward(self, x):
                return Cube.apply(self.f(x.flatten(1)))

        return Net()

    p = problem(cubic)
    assert agreement(p.surface, p.w0, torch.Generator().manual_seed(0)).derivative
    with pytest.raises(Refusal, match=r"third derivatives of this model are wrong: \S+ along a direction"):
        check_third_derivatives(p.surface, p.w0)
    for name in ("relu", "mlp", "resnet_group", "cnn"):
        p = problem(MODELS[name], cross_entropy)
        check_third_derivatives(p.surface, p.w0)


@pytest.mark.parametrize("name", ["mlp", "resnet_group", "cnn"])
def test_third_derivatives_are_those_of_finite_differences(name):
    p = problem(MODELS[name], cross_entropy)
    rng = torch.Generator().manual_seed(0)
    V = torch.randn(2, len(p.w0), dtype=torch.float64, generator=rng)
    direction = torch.randn(len(p.w0), dtype=torch.float64, generator=rng)

    def curved(w):
        return float((p.surface.hvp(w, V) * V).sum())

    h = 1e-5
    slope = (curved(p.w0 + h * direction) - curved(p.w0 - h * direction)) / (2 * h)
    assert float(p.surface.curvature_grad(p.w0, V) @ direction) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_the_gradients_of_trace_and_lambda_1_are_those_of_finite_differences():
    p = problem(MODELS["mlp"])
    w, eye, h = p.w0, torch.eye(len(p.w0), dtype=torch.float64), 1e-5
    lam, Q = torch.linalg.eigh(p.surface.hvp(w, eye))
    direction = torch.randn(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = [torch.linalg.eigvalsh(p.surface.hvp(w + s * h * direction, eye)) for s in (1, -1)]
    for V, change in ((eye, ends[0].sum() - ends[1].sum()), (Q[:, -1:].T, ends[0][-1] - ends[1][-1])):
        assert float(p.surface.curvature_grad(w, V) @ direction) == pytest.approx(
            float(change) / (2 * h), rel=1e-5
        )


def test_value_and_gradient_at_once_are_those_apart():
    p = problem(MODELS["mlp"])
    value, g = p.surface.value_and_grad(p.w0)
    assert value == pytest.approx(float(p.surface.value(p.w0)), rel=1e-12) and torch.allclose(
        g, p.surface.grad(p.w0)
    )


def test_a_problem_in_some_parameters_has_the_block_of_the_hessian():
    p = problem(MODELS["mlp"])
    H = p.surface.hvp(p.w0, torch.eye(len(p.w0), dtype=torch.float64))
    chosen = [name for name in p.names if name.startswith("3")]
    part = p.only(p.w0, chosen)
    first = sum(shape.numel() for name, shape in p.layout if name not in chosen and name < "3")
    block = slice(first, first + len(part.w0))
    assert part.names == chosen and torch.equal(part.w0, p.w0[block])
    assert torch.allclose(
        part.surface.hvp(part.w0, torch.eye(len(part.w0), dtype=torch.float64)), H[block, block], rtol=1e-9
    )
    assert part.scores(part.w0) == p.scores(p.w0)
