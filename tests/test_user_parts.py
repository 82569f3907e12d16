"""A user's module and loss keep their own meaning, or are refused in one line that names what stands in the
way; PyTorch's wrong second derivatives are seen."""

from __future__ import annotations

import copy
import cProfile
import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from sharpcli.data import Dataset
from sharpcli.errors import NotFinite, Refusal
from sharpcli.landscape.distributed import ALONE
from sharpcli.landscape.flows import integrate
from sharpcli.landscape.second_derivatives import agreement
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.lanczos import largest
from sharpcli.losses.cross_entropy import cross_entropy
from sharpcli.losses.half_squared import half_squared
from sharpcli.objectives.trace_penalty import trace_penalty
from sharpcli.problems.network import flat, network
from sharpcli.problems.user_parts import check_model
from sharpcli.rng import generator

RNG = torch.Generator().manual_seed(0)
X = torch.randn(12, 4, generator=RNG)
Y = F.one_hot(torch.arange(12) % 3, 3).float()


def problem(module, *, loss=half_squared, x=X, y=Y, dtype="float32", batchnorm="batch", weights=None):
    """The network of a module on twelve examples."""
    data = Dataset(x, y, x[:4], y[:4], classes=True)
    place = {"seed": 0, "device": torch.device("cpu"), "chunk": 5, "graph_budget": 2**30}
    make = (lambda *_: copy.deepcopy(module)) if isinstance(module, nn.Module) else (lambda *_: module())
    return network(
        **place,
        compile_products="false",
        processes=ALONE,
        weights=weights,
        data=data,
        model=make,
        loss=loss,
        dtype=dtype,
        batchnorm=batchnorm,
    )


def mlp(*extra):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), *extra, nn.Linear(5, 3))


def hessian(p, surface=None):
    w = p.w0
    return (surface or p.surface).linearize(w).hvp(torch.eye(len(w), dtype=w.dtype))


class Wrapped(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.net, self.does = mlp(), forward

    def forward(self, x):
        return self.does(self.net, x)


class Buffered(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return self.net(x)


class Counting(nn.Module):
    """A schedule inside of forward: the outputs change after many calls alone."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = mlp(), 0

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1 if self.calls < 50 else 2)


class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x):
        self.last = self.net[0](x)
        return self.net(x)


class Pair(NamedTuple):
    logits: torch.Tensor
    features: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None


def complex_weights():
    net = mlp()
    net[0].weight = nn.Parameter(net[0].weight.to(torch.complex64))
    return net


def frozen(tensor):
    module = Wrapped(lambda n, x: n(x))
    module.extra = nn.Parameter(tensor, requires_grad=False)
    return module


def sharing():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    net[1].weight = nn.Parameter(net[0].weight.detach()[:3])
    return net


def embedding(**more):
    return nn.Sequential(nn.Embedding(7, 2, **more), nn.Flatten(), nn.Linear(8, 3))


IDS = torch.arange(48).view(12, 4) % 7

REFUSED = {
    "checkpoint": (Wrapped(lambda n, x: checkpoint(n, x, use_reentrant=False)), "torch.utils.checkpoint"),
    "the older checkpoint": (
        Wrapped(lambda n, x: checkpoint(n, x, use_reentrant=True)),
        "torch.utils.checkpoint",
    ),
    "a checkpoint in a part": (
        Wrapped(lambda n, x: n[2](checkpoint(lambda z: n[1](n[0](z)), x, use_reentrant=False))),
        "test_user_parts.py, line",
    ),
    "a buffer that counts": (Buffered(), "changes seen"),
    "a number that counts": (Counting(), "changes calls"),
    "instance norm that tracks": (
        nn.Sequential(
            nn.Unflatten(1, (2, 2)),
            nn.InstanceNorm1d(2, track_running_stats=True),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        "running_mean",
    ),
    "dropout": (mlp(nn.Dropout(0.5)), "differ between two passes"),
    "complex weights": (complex_weights(), "0.weight is complex"),
    "a meta weight": (frozen(torch.empty(3, device="meta")), "extra is on the meta device"),
    "a sparse weight": (frozen(torch.eye(3).to_sparse()), "extra is sparse"),
    "a float8 weight": (frozen(torch.ones(3).to(torch.float8_e4m3fn)), "extra is quantized (float8_e4m3fn)"),
    "a float64 weight": (frozen(torch.tensor([1 / 3], dtype=torch.float64)), "extra is float64"),
    "two parameters in the same memory": (sharing(), "share memory"),
    "TorchScript": (None, "TorchScript"),
    "a tuple": (Wrapped(lambda n, x: (n(x), x)), "return self.net(x)[0]"),
    "a dict": (Wrapped(lambda n, x: {"logits": n(x), "features": x}), "return self.net(x)['logits']"),
    "a named tuple": (Wrapped(lambda n, x: Pair(n(x), x)), "return self.net(x).logits"),
    "a dataclass": (Wrapped(lambda n, x: Output(n(x))), "return self.net(x).logits"),
    "half precision inside": (Wrapped(lambda n, x: n(x).half()), "torch.float16 outputs"),
    "outputs of another shape": (Wrapped(lambda n, x: n(x)[:, :2]), "outputs [8, 2] for targets [8, 3]"),
    "outputs that ignore the weights": (Wrapped(lambda n, x: x[:, :3]), "no gradient in the weights"),
    "outputs that are detached": (Wrapped(lambda n, x: n(x).detach()), "no gradient in the weights"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_a_module_whose_loss_is_no_function_of_real_weights_is_refused_by_name(name):
    module, said = REFUSED[name]
    with pytest.raises(Refusal) as refusal:
        if module is None:  # made here, since making it warns
            module = torch.jit.script(mlp())
        problem(lambda: module)  # itself: a copy shares no memory
    assert said in str(refusal.value)


def test_an_embedding_that_renormalizes_its_weights_in_forward_is_refused():
    with pytest.raises(Refusal, match="changes its own parameters"):
        problem(embedding(max_norm=0.1), x=IDS)


LOSSES = {
    "a sum": (lambda f, y: (f - y).square().sum(), "sums over them"),
    "a library's sum": (lambda f, y: F.cross_entropy(f, y, reduction="sum"), "sums over them"),
    "weights by class": (
        lambda f, y: F.cross_entropy(f, y.argmax(1), weight=torch.tensor([1.0, 2, 5])),
        "weights",
    ),
    "a loss of pairs": (lambda f, y: torch.cdist(f, f).mean(), "couples"),
    "a mean of batches' deviations": (lambda f, y: (f - y).square().mean().sqrt(), "couples"),
    "a value for each example": (lambda f, y: (f - y).square().sum(1), r"give a scalar"),
    "a number": (lambda f, y: 1.0, "give a scalar"),
    "a complex loss": (lambda f, y: (f - y).mean() * 1j, "give a scalar"),
    "a constant": (lambda f, y: (f * 0).sum() / len(f), "does not depend on outputs"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_no_mean_over_the_examples_is_refused(name):
    loss, said = LOSSES[name]
    with pytest.raises(Refusal, match=said):
        problem(mlp(), loss=loss)


def test_cross_entropy_of_a_single_output_is_refused():
    net = nn.Sequential(nn.Linear(4, 1))
    for y in (torch.ones(12, 1), torch.randn(12, 1)):
        with pytest.raises(Refusal, match="does not depend on outputs"):
            problem(net, loss=cross_entropy, y=y)


@pytest.mark.parametrize(
    "loss",
    [
        lambda f, y: F.mse_loss(f, y),
        lambda f, y: F.cross_entropy(f, y.argmax(1)),
        lambda f, y: F.binary_cross_entropy(f.sigmoid(), y),
        lambda f, y: F.huber_loss(f, y),
        lambda f, y: (f - y).pow(4).sum() / len(f),
    ],
)
def test_a_mean_over_the_examples_is_taken(loss):
    for dtype in ("float32", "float64"):
        problem(mlp(), loss=loss, dtype=dtype)


def test_a_start_at_an_interpolator_is_no_degenerate_loss():
    net = nn.Linear(4, 3)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    problem(net, y=torch.zeros(12, 3))


def test_a_compiled_function_inside_a_model_is_run_as_it_was_written():
    @torch.compile
    def activation(x):
        return x.tanh() * 2

    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    compiled = problem(lambda: Compiled(net, activation))
    plain = problem(lambda: Compiled(net, lambda x: x.tanh() * 2))
    assert torch.equal(hessian(compiled), hessian(plain))


class Compiled(nn.Module):
    def __init__(self, net, activation):
        super().__init__()
        self.net, self.activation = copy.deepcopy(net), activation

    def forward(self, x):
        return self.net[-1](self.activation(self.net[0](x)))


def test_a_model_without_compiled_functions_is_no_compiled_model():
    import torch._dynamo  # with it loaded, a stance towards compiled functions is taken

    net = mlp()
    predict = flat(net, [name for name, _ in net.named_parameters()], eager=True)
    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    assert not check_model(net, predict, w, X[:8]).compiled
    compiled = Compiled(net, torch.compile(torch.tanh))
    names = [name for name, _ in compiled.named_parameters()]
    w = torch.cat([p.detach().flatten() for p in compiled.parameters()])
    assert check_model(compiled, flat(compiled, names, eager=True), w, X[:8]).compiled


def test_a_compiled_module_is_measured_as_the_module_that_it_compiles():
    assert torch.equal(hessian(problem(lambda: torch.compile(mlp()))), hessian(problem(mlp)))


def test_a_model_is_tried_under_a_profiler_too_and_the_profiler_goes_on():
    profile = cProfile.Profile()
    profile.enable()
    problem(mlp())
    still_on = sys.getprofile() is not None
    profile.disable()
    assert still_on


def test_a_cache_that_forward_keeps_is_no_state():
    assert torch.equal(hessian(problem(Caching)), hessian(problem(lambda: Wrapped(lambda n, x: n(x)))))


def test_frozen_integers_and_half_precision_weights_keep_their_values():
    for tensor in (torch.tensor([3, -5], dtype=torch.int8), torch.tensor([True, False])):
        held = problem(frozen(tensor)).held["extra"]
        assert held.dtype == tensor.dtype and torch.equal(held, tensor)
    half = mlp().to(torch.bfloat16)
    w0 = problem(half).w0
    assert torch.equal(w0, torch.cat([p.detach().flatten() for p in half.parameters()]).float())


def test_float64_weights_are_measured_in_float64():
    net = mlp().double()
    problem(net)  # float32 holds them
    net[0].weight.data += 1e-12
    with pytest.raises(Refusal, match="0.weight is float64.*float32 would round it"):
        problem(net)
    assert torch.equal(problem(net, dtype="float64").w0, torch.cat([p.flatten() for p in net.parameters()]))


def test_float64_inputs_are_not_rounded_on_their_way():
    x = torch.randn(12, 4, dtype=torch.float64)
    assert torch.equal(problem(mlp(), x=x, dtype="float64").examples[0], x)


def test_integer_inputs_stay_integers_for_an_embedding_and_become_floats_for_a_linear_layer():
    assert problem(embedding(), x=IDS).examples[0].dtype == torch.int64
    floats = problem(mlp(), x=IDS)
    assert floats.examples[0].dtype == torch.float32
    assert torch.equal(hessian(floats), hessian(problem(mlp(), x=IDS.float())))


def test_a_batch_norm_in_eval_mode_keeps_its_own_statistics():
    net = mlp(nn.BatchNorm1d(5))
    net[2].running_mean.normal_(generator=RNG), net[2].running_var.uniform_(0.5, 2, generator=RNG)
    net[2].eval()
    for policy in ("batch", "population"):
        p = problem(net, batchnorm=policy)
        expected = copy.deepcopy(net)(X)
        assert torch.allclose(p.at(p.w0).predict(p.w0, X), expected, atol=1e-6)
        assert not p.surface.joint
    changed = copy.deepcopy(net)
    changed[2].running_var.mul_(4)
    assert not torch.allclose(hessian(problem(net)), hessian(problem(changed)))


def test_population_statistics_of_a_layer_that_is_called_twice_are_those_of_all_its_inputs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.a, self.b, self.norm = nn.Linear(4, 5), nn.Linear(5, 3), nn.BatchNorm1d(5)

        def forward(self, x):
            return self.b(self.norm(self.a(x)) + self.norm(3 * self.a(x)))

    p = problem(Twice, batchnorm="population", dtype="float64")
    net = Twice().double()
    with torch.no_grad():
        inputs = torch.cat([net.a(X.double()), 3 * net.a(X.double())])
        net.norm.running_mean, net.norm.running_var = inputs.mean(0), inputs.var(0, correction=0)
        expected = net.eval()(X.double())
    assert torch.allclose(p.at(p.w0).predict(p.w0, X.double()), expected, atol=1e-12)


def test_a_batch_of_a_single_example_is_refused_under_batch_norm_before_the_first_step(sharp, folder):
    (folder / "batched.py").write_text(
        "from torch import nn\n\n\ndef net(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Linear(6, outputs))\n"
    )
    words = ["model._target_=batched.net", "~model.widths", "~model.activation", "trust=[batched]"]
    words += ["measure=[scores]", "chunk=1000"]
    assert "batch_size=8" in sharp("train", *words, "data.train_examples=33", "batch_size=8").refusal
    few = ["data.train_examples=33", "batch_size=11", "chunk=8"]
    assert "chunk=8" in sharp("train", *words, *few).refusal
    assert sharp("train", *words, "data.train_examples=33", "batch_size=8", "steps=3").code == 0
    assert sharp("train", *words, "data.train_examples=34", "batch_size=8", "steps=6").code == 0


# --- second derivatives ---


def disagreement(module, dtype="float32", seed=0, **more):
    p = problem(module, dtype=dtype, **more)
    return agreement(p.surface, p.w0, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_wrong_second_derivative_of_weight_norm_is_seen(dtype):
    found = disagreement(nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)), dtype)
    assert not found.symmetric


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.ReLU,
        nn.GELU,
        nn.SiLU,
        nn.Softplus,
        nn.Hardswish,
        lambda: nn.LayerNorm(5),
        lambda: nn.RMSNorm(5),
        nn.Identity,
    ],
)
def test_right_second_derivatives_agree(layer, dtype):
    for seed in range(5):
        found = disagreement(mlp(layer()), dtype, seed)
        assert found.symmetric and found.derivative


@pytest.mark.parametrize(("depth", "seed"), [(20, 0), (30, 0), (30, 1)])
def test_float32_rounding_of_a_deep_network_is_no_wrong_derivative(depth, seed):
    torch.manual_seed(seed)
    widths = [4, *[6] * depth]
    blocks = [(nn.Linear(i, o), nn.BatchNorm1d(o), nn.ReLU()) for i, o in pairwise(widths)]
    module = nn.Sequential(*(layer for block in blocks for layer in block), nn.Linear(6, 3))
    found = disagreement(module, seed=seed)
    assert abs(found.uHv / found.difference - 1) > 1e-4  # as no kink or truncation does
    assert found.symmetric and found.derivative


def test_a_symmetric_matrix_that_is_not_the_gradients_derivative_is_seen():
    class Half(torch.autograd.Function):
        """x^2 whose gradient is right and whose second derivative is half of it."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * (x + x.detach())

    net = nn.Sequential(nn.Linear(4, 3))
    found = disagreement(Wrapped(lambda n, x: Half.apply(n(x))), loss=lambda f, y: f.sum() / len(f))
    assert found.symmetric and not found.derivative and net is not None


def test_a_layer_with_a_wrong_second_derivative_ends_a_run_before_its_first_row(sharp, folder):
    (folder / "normed.py").write_text(
        "from torch import nn\nfrom torch.nn.utils.parametrizations import weight_norm\n\n\n"
        "def net(shape, outputs):\n"
        "    first = weight_norm(nn.Linear(64, 6))\n"
        "    return nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(6, outputs))\n"
    )
    words = ["model._target_=normed.net", "~model.widths", "~model.activation", "trust=[normed]"]
    words += ["data.train_examples=60", "steps=2"]
    refusal = [*sharp("train", *words, "measure=[scores,sharpness]").err.splitlines()][-1]
    assert "u.Hv" in refusal and "v.Hu" in refusal and "docs/measure.md" in refusal
    assert sharp("train", *words, "measure=[scores]").code == 0


def test_a_layer_without_a_second_derivative_is_one_line():
    with pytest.raises(Refusal, match="hardsigmoid_backward is not implemented"):
        hessian(problem(mlp(nn.Hardsigmoid())))


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(5), lambda: nn.LayerNorm(5, elementwise_affine=False)])
def test_third_derivatives_through_layer_norm_are_those_of_the_curvature(norm):
    p = problem(mlp(norm()), dtype="float64")
    v, u = torch.randn(2, len(p.w0), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def curvature(w):
        return float(v @ p.surface.hvp(w, v))

    h = 1e-5 * u
    difference = (curvature(p.w0 + h) - curvature(p.w0 - h)) / 2e-5
    assert float(u @ p.surface.curvature_grad(p.w0, v[None])) == pytest.approx(difference, rel=1e-5)


def test_the_gradient_of_the_trace_penalty_through_layer_norm_is_that_of_its_value():
    p = problem(mlp(nn.LayerNorm(5)), dtype="float64")
    surface = trace_penalty(p.surface, p.w0, generator(0, "penalty", 0), strength=1.0, probes=2)
    u = torch.randn(len(p.w0), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    difference = float(surface.value(p.w0 + 1e-6 * u) - surface.value(p.w0 - 1e-6 * u)) / 2e-6
    assert float(u @ surface.grad(p.w0)) == pytest.approx(difference, rel=1e-5)


# --- products that are not finite ---


def test_a_product_that_is_not_finite_is_no_number():
    p = problem(Wrapped(lambda n, x: n(x) + 0 * (n(x) * 0).sqrt()))
    with pytest.raises(NotFinite, match="Hessian"):
        p.surface.hvp(p.w0, torch.ones_like(p.w0))
    with pytest.raises(NotFinite):
        largest(p.surface.linearize(p.w0).hvp, torch.randn(1, len(p.w0)), 1, 1e-3, 50)


@pytest.mark.parametrize("solver", ["RK45", "DOP853", "LSODA", "Radau"])
def test_a_flow_without_a_finite_velocity_ends(solver):
    w = torch.ones(2, dtype=torch.float64)
    with pytest.raises((NotFinite, Refusal)):
        integrate(lambda at: at * torch.nan, w, 1.0, solver, 1e-3, 1e-6)
    with pytest.raises((NotFinite, Refusal)):
        integrate(lambda at: torch.where(at < 1.5, at, torch.nan), w, 9.0, solver, 1e-3, 1e-6)


@pytest.mark.parametrize("solver", ["RK45", "DOP853", "LSODA", "Radau"])
def test_a_flow_whose_velocity_jumps_at_every_step_is_given_up_by_its_count(solver):
    calls = []

    def jumps(at):
        calls.append(1)
        return torch.sign(torch.sin(1e9 * at)) + 2

    with pytest.raises(Refusal, match="more than 500 velocities"):
        integrate(jumps, torch.ones(2, dtype=torch.float64), 50.0, solver, 1e-8, 1e-10, most=500)
    assert len(calls) == 500


def test_a_flow_asks_for_no_more_than_its_dtype_holds():
    calls = []

    def downhill(at):
        calls.append(1)
        return -at * at.sin()

    w = torch.linspace(0.1, 1, 20)
    ends = integrate(downhill, w, 4.0, "DOP853", 1e-12, 1e-15)
    assert len(calls) < 500
    exact = integrate(lambda at: -at * at.sin(), w.double(), 4.0, "DOP853", 1e-12, 1e-15)
    assert (ends.double() - exact).abs().max() < 2e-5


def test_a_measure_whose_curvature_is_not_finite_says_so_and_the_others_go_on(sharp, folder):
    (folder / "rooted.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.flat, self.layer = nn.Flatten(), nn.Linear(64, 10)\n\n"
        "    def forward(self, x):\n        f = self.layer(self.flat(x))\n"
        "        return f + 0 * (0 * f).sqrt()\n"
    )
    words = ["model._target_=rooted.Net", "~model.widths", "~model.activation", "trust=[rooted]", "steps=1"]
    said = sharp(
        "train",
        *words,
        "data.train_examples=60",
        "measure=[sharpness,trace,norms]",
        "batch_size=1",
        "lr=1e-9",
    )
    assert said.code == 0, said.err
    rows = (next((folder / "runs").glob("*")) / "metrics.jsonl").read_text()
    assert (
        '"sharpness_not_finite": true' in rows and '"trace_not_finite": true' in rows and '"l2_norm"' in rows
    )


@pytest.mark.parametrize("words", [["lr=10"], ["model.activation=relu", "lr=3"]])
def test_a_run_that_diverges_ends(sharp, words):
    small = ["data.train_examples=60", "model.widths=[6]", "steps=40", "measure_every=1"]
    said = sharp("train", *words, *small)
    assert said.code == 0 and ("diverged at step" in said.out or "complete" in said.out)


def test_numbers_of_an_agreement_are_finite():
    found = disagreement(mlp())
    assert all(math.isfinite(v) for v in (found.uHv, found.vHu, found.difference))


def test_a_surface_without_curvature_has_nothing_to_agree_on():
    surface = LossSurface(lambda w, x: x @ w[:, None], lambda f, y: f.mean(), ((X, Y),))
    assert agreement(surface, torch.ones(4), RNG) is None
