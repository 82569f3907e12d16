"""Measuring from Python: any module, loss and data, against dense Hessians by torch.func alone."""

import copy
import gc
import random
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sharpcli as sharp
from sharpcli.engine.measuring import measure
from sharpcli.losses.half_squared import half_squared
from sharpcli.measures import Estimates
from sharpcli.models.mlp import mlp as build_mlp
from sharpcli.run import Run

torch.manual_seed(0)
X, LABELS, Y = torch.randn(24, 5), torch.randint(0, 3, (24,)), torch.randn(24, 3)
TOKENS = torch.randint(0, 11, (6, 8))
CE = nn.CrossEntropyLoss()


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))


def truth(module, mean):
    """The Hessian of mean(module) in all trainable parameters, in float64, by torch.func."""
    module = copy.deepcopy(module).double()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    tensors = [module.get_parameter(name).detach() for name in names]
    sizes = [t.numel() for t in tensors]

    def loss(w):
        parts = {n: p.view(t.shape) for n, p, t in zip(names, w.split(sizes), tensors, strict=True)}

        def call(*args, **kwargs):
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                return torch.func.functional_call(module, parts, args, kwargs)

        return mean(call)

    w = torch.cat([t.flatten() for t in tensors])
    return torch.func.jacrev(torch.func.grad(loss))(w)


class Two(nn.Module):
    """Two inputs, a shared weight, and a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)
        self.b.bias = self.a.bias
        self.out = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, left, right):
        hidden = torch.tanh(self.a(left) + self.scale * self.b(right))
        return {"logits": self.out(hidden), "hidden": hidden, "note": "text"}


Pair = namedtuple("Pair", "logits aux")


@dataclass
class Held:
    logits: torch.Tensor


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, activation="gelu", batch_first=True)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens)))


def next_token(outputs, tokens):
    return F.cross_entropy(outputs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def frozen():
    net = mlp()
    net[0].requires_grad_(False)
    return net


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = mlp(), wrap

    def forward(self, x):
        return self.wrap(self.net(x))


CASES = {  # module, loss, data, mean of a call that is the truth
    "pair": (mlp(), CE, (X, LABELS), lambda net: CE(net(X.double()), LABELS)),
    "squares": (mlp(), nn.MSELoss(), (X, Y), lambda net: nn.MSELoss()(net(X.double()), Y.double())),
    "smoothing": (
        mlp(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        DataLoader(TensorDataset(X, LABELS), batch_size=7, shuffle=True),
        lambda net: nn.CrossEntropyLoss(label_smoothing=0.1)(net(X.double()), LABELS),
    ),
    "two inputs": (
        Two(),
        lambda outputs, y: F.cross_entropy(outputs["logits"], y),
        [((X[:10], X[:10].flip(0)), LABELS[:10]), ((X[10:], X[10:].flip(0)), LABELS[10:])],
        lambda net: sum(
            len(x) / 24 * F.cross_entropy(net(x.double(), x.flip(0).double())["logits"], y)
            for x, y in ((X[:10], LABELS[:10]), (X[10:], LABELS[10:]))
        ),
    ),
    "inputs by name": (
        Two(),
        lambda outputs, y: F.cross_entropy(outputs["logits"], y),
        [({"left": X, "right": -X}, LABELS)],
        lambda net: F.cross_entropy(net(left=X.double(), right=-X.double())["logits"], LABELS),
    ),
    "a dict, and the model": (
        mlp(),
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        {"x": X, "y": LABELS},
        lambda net: F.cross_entropy(net(X.double()), LABELS),
    ),
    "a pair, and the model": (
        mlp(),
        lambda m, b: F.cross_entropy(m(b[0]), b[1]),
        (X, LABELS),
        lambda net: F.cross_entropy(net(X.double()), LABELS),
    ),
    "a namedtuple": (
        Wrapped(lambda f: Pair(f, f * 2)),
        lambda outputs, y: F.cross_entropy(outputs.logits, y),
        (X, LABELS),
        lambda net: F.cross_entropy(net(X.double()).logits, LABELS),
    ),
    "a dataclass": (
        Wrapped(Held),
        lambda outputs, y: F.cross_entropy(outputs.logits, y),
        (X, LABELS),
        lambda net: F.cross_entropy(net(X.double()).logits, LABELS),
    ),
    "attention, tied": (
        Attention().eval(),
        next_token,
        (TOKENS, TOKENS),
        lambda net: next_token(net(TOKENS), TOKENS),
    ),
    "frozen": (frozen(), CE, (X, LABELS), lambda net: CE(net(X.double()), LABELS)),
    "an iterable": (
        mlp(),
        CE,
        ((X[i : i + 5], LABELS[i : i + 5]) for i in range(0, 24, 5)),
        lambda net: CE(net(X.double()), LABELS),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_hessian_of_any_model_is_that_of_torch_func(name):
    module, loss, data, mean = CASES[name]
    data = list(data) if name == "an iterable" else data
    H = sharp.hessian(copy.deepcopy(module).double() if name != "pair" else module, loss, doubled(data, name))
    exact = truth(module, mean)
    tol = 1e-5 if name == "pair" else 1e-12
    assert (H.dense().double() - exact).abs().max() < tol
    found = sharp.measure(
        module, loss, data if name != "an iterable" else iter(data), ["sharpness"], tol=1e-3
    )
    lambda_1 = float(torch.linalg.eigvalsh(exact)[-1])
    assert abs(found["lambda_1"] - lambda_1) <= 1e-3 * lambda_1 and found["sharpness_converged"]


def doubled(data, name):
    """The data in float64, but for the case that stays in float32."""
    if name == "pair":
        return data
    if isinstance(data, DataLoader):
        x, y = data.dataset.tensors
        return DataLoader(TensorDataset(x.double(), y), batch_size=7, shuffle=True)
    return torch.utils._pytree.tree_map(
        lambda t: t.double() if isinstance(t, torch.Tensor) and t.is_floating_point() else t, data
    )


def test_the_three_lines():
    found = sharp.measure(mlp(), CE, (X, LABELS), ["sharpness", "trace"], k=5)
    exact = truth(mlp(), CASES["pair"][3])
    values, vectors = torch.linalg.eigh(exact)
    for i in range(1, 6):
        assert abs(found[f"lambda_{i}"] - float(values[-i])) <= max(
            found.error(f"lambda_{i}"), 1e-3 * values[-1]
        )
    assert abs(found["trace"] - float(exact.trace())) <= found.error("trace") + 1e-5
    directions = found.vectors("sharpness")
    assert len(directions) == 5
    assert {name: v.shape for name, v in directions[0].items()} == {
        n: p.shape for n, p in mlp().named_parameters()
    }
    first = torch.cat([v.flatten() for v in directions[0].values()]).double()
    assert abs(float(first @ vectors[:, -1])) > 0.999
    text = str(found)
    assert "lambda_5" in text and "±" in text and "products" in text
    assert dict(found)["lambda_1"] == found["lambda_1"]
    with pytest.raises(KeyError, match="lambda_9: not measured"):
        found["lambda_9"]
    with pytest.raises(sharp.Refused, match="has no error"):
        found.error("sharpness_products")
    with pytest.raises(sharp.Refused, match="trace: has no vectors"):
        found.vectors("trace")


def test_operators_of_every_form():
    module = mlp().double()
    x = X.double()
    H = sharp.hessian(module, CE, (x, LABELS))
    exact = truth(module, CASES["pair"][3])
    D = len(exact)
    assert H.shape == (D, D) and repr(H) == f"Hessian [{D}, {D}] of 24 examples, torch.float64"
    V = torch.randn(D, 3, dtype=torch.float64)
    assert torch.allclose(H @ V, exact @ V) and torch.allclose(H @ V[:, 0], exact @ V[:, 0])
    named = {name: torch.randn_like(p) for name, p in module.named_parameters()}
    product = H @ named
    flat = torch.cat([named[name].flatten() for name in H.names])
    assert torch.allclose(torch.cat([p.flatten() for p in product.values()]), exact @ flat)
    only = {"2.bias": torch.ones(3, dtype=torch.float64)}
    assert torch.allclose((H @ only)["2.bias"], exact[-3:, -3:].sum(1))
    values = torch.linalg.eigvalsh(exact).flip(0)
    pairs = H.eigenpairs(4, tol=1e-8)
    assert torch.allclose(pairs.values, values[:4]) and pairs.converged
    assert torch.allclose(exact @ pairs.vectors[0], values[0] * pairs.vectors[0], atol=1e-6)
    assert np.allclose(eigsh(H.scipy_operator(), k=2, which="LA")[0][::-1], values[:2])
    assert abs(H.trace().value - float(exact.trace())) < 1e-10
    estimate = H.trace(rtol=0.05, max_products=40)
    assert abs(estimate.value - float(exact.trace())) <= 2 * estimate.stderr
    assert torch.allclose(H.diagonal(exact=True)[0], exact.diagonal())
    diagonal, stderr = H.diagonal(probes=30)
    errors = (diagonal - exact.diagonal()) / stderr.clamp_min(1e-12)
    assert 0.5 < float(errors.square().mean().sqrt()) < 1.6
    nodes = H.density(probes=3, steps=40)
    mean, stderr = nodes.mean(nodes.nodes, D)
    assert abs(mean - float(exact.trace()) / D) <= 2 * stderr
    assert torch.allclose(H.block("2.*").dense(), exact[36:, 36:])
    blocks = H.layers()
    assert list(blocks) == ["0", "2"] and torch.allclose(blocks["0"].dense(), exact[:36, :36])
    G = sharp.gauss_newton(module, CE, (x, LABELS))
    J = torch.func.jacrev(lambda w: call(module, w, x))(flat_of(module))
    p = call(module, flat_of(module), x).softmax(1)
    B = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    assert torch.allclose(G.dense(), torch.einsum("ncd,nce,nef->df", J, B, J) / 24)


def flat_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def call(module, w, x):
    parts, at = {}, 0
    for name, p in module.named_parameters():
        parts[name], at = w[at : at + p.numel()].view(p.shape), at + p.numel()
    return torch.func.functional_call(module, parts, (x,))


def test_third_derivatives():
    torch.manual_seed(3)
    module, x = nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3)).double(), X.double()
    H = sharp.hessian(module, CE, (x, LABELS))
    w = flat_of(module)

    def hessian(w):
        return torch.func.jacrev(torch.func.grad(lambda w: CE(call(module, w, x), LABELS)))(w)

    exact = torch.func.jacrev(lambda w: torch.linalg.eigvalsh(hessian(w))[-1])(w)
    assert torch.allclose(H.grad_lambda_1(tol=1e-10), exact, atol=1e-7)
    slope = torch.func.jacrev(lambda w: hessian(w).trace())(w)
    mean, stderr = H.grad_trace(probes=100)
    assert float(((mean - slope) / stderr).square().mean().sqrt()) < 1.6


# --- the model is left as it was ---


class Forgetful(nn.Module):
    """Stores what it saw, draws from every generator, and hooks itself."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
        self.seen = None

    def forward(self, x):
        torch.rand(1), np.random.rand(), random.random()
        self.seen = x.sum()
        return self.net(x)


def test_a_model_is_left_bit_identical():
    torch.manual_seed(4)
    module = Forgetful()
    module.net[3].weight.grad = torch.ones(3, 6)
    module.net[0].weight.requires_grad_(False)
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    module.net[2].eval()
    before = copy.deepcopy(module.state_dict())
    modes = [m.training for m in module.modules()]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = random.random(), np.random.rand(), torch.rand(3)
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=8, shuffle=True)
    sharp.measure(module, CE, loader, ["sharpness", "trace"], max_products=20)
    assert (random.random(), np.random.rand()) == expected[:2] and torch.equal(torch.rand(3), expected[2])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert [m.training for m in module.modules()] == modes and module.seen is None
    assert torch.equal(module.net[3].weight.grad, torch.ones(3, 6)) and module.net[0].weight.grad is None
    assert not module.net[0].weight.requires_grad and len(module._forward_hooks) == 1 and calls
    hook.remove()


def test_batch_norm_in_training_is_a_function_of_each_batch():
    torch.manual_seed(5)
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = X.double()
    H = sharp.hessian(module, CE, [(x[:12], LABELS[:12]), (x[12:], LABELS[12:])])

    def mean(net):
        return (CE(net(x[:12]), LABELS[:12]) + CE(net(x[12:]), LABELS[12:])) / 2

    plain = copy.deepcopy(module)
    plain[1].track_running_stats, plain[1].running_mean, plain[1].running_var = False, None, None
    plain[1].num_batches_tracked = None
    assert torch.allclose(H.dense(), truth(plain, mean), atol=1e-10)


def test_eval_mode_measures_without_dropout_and_leaves_the_modes():
    module = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3))
    with pytest.raises(sharp.Refused, match="differ between two passes"):
        sharp.measure(module, CE, (X, LABELS))
    found = sharp.measure(module, CE, (X, LABELS), eval_mode=True)
    assert module.training and module[1].training
    module.eval()
    assert sharp.measure(module, CE, (X, LABELS))["lambda_1"] == found["lambda_1"]


def test_half_precision_is_measured_in_float32_copies():
    module = Attention().eval().bfloat16()
    found = sharp.measure(module, next_token, (TOKENS, TOKENS))
    assert (
        sharp.measure(copy.deepcopy(module).float(), next_token, (TOKENS, TOKENS))["lambda_1"]
        == found["lambda_1"]
    )
    assert all(p.dtype == torch.bfloat16 for p in module.parameters())


def test_compiled_and_data_parallel_models_are_measured_by_what_is_inside():
    module = mlp()
    plain = sharp.measure(module, CE, (X, LABELS))["lambda_1"]
    assert sharp.measure(torch.compile(module), CE, (X, LABELS))["lambda_1"] == plain
    assert sharp.measure(nn.DataParallel(module), CE, (X, LABELS))["lambda_1"] == plain


# --- what a loss averages over ---


def test_ignored_targets_need_their_weight_and_then_count_as_in_one_batch():
    module = Attention().eval().double()
    targets = TOKENS.clone()
    targets[3:, :6] = -100

    def loss(outputs, y):
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    halves = [(TOKENS[:3], targets[:3]), (TOKENS[3:], targets[3:])]
    for data in ((TOKENS, targets), halves):
        with pytest.raises(sharp.Refused, match="weight="):
            sharp.hessian(module, loss, data)

    def counted(batch):
        return (batch[1] != -100).sum()

    exact = truth(module, lambda net: loss(net(TOKENS), targets))
    for data in ((TOKENS, targets), halves):
        assert torch.allclose(sharp.hessian(module, loss, data, weight=counted).dense(), exact, atol=1e-10)


def test_a_model_that_computes_its_loss_is_held_to_the_same_mean():
    module = mlp()

    def summed(model, batch):
        return F.cross_entropy(model(batch["x"]), batch["y"], reduction="sum")

    with pytest.raises(sharp.Refused, match="sums over them"):
        sharp.measure(module, summed, {"x": X, "y": LABELS})
    with pytest.raises(sharp.Refused, match="outputs are inside of this loss"):
        sharp.measure(
            module,
            lambda model, b: F.cross_entropy(model(b["x"]), b["y"]),
            {"x": X, "y": LABELS},
            "gauss_newton",
        )


# --- what is refused ---


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield X[0], LABELS[0]


def on_two_devices():
    net = mlp()
    net[2].weight = nn.Parameter(net[2].weight.to("meta"))
    return net


def net_and(loss, data, *measures, **settings):
    return lambda: sharp.measure(mlp(), loss, data, *measures, **settings)


def times(v):
    return lambda: sharp.hessian(mlp(), CE, (X, LABELS)) @ v


BOTH = (X, LABELS)
REFUSED = {
    "no scalar": (net_and(nn.MSELoss(reduction="none"), (X, Y)), "give a scalar"),
    "a sum": (net_and(nn.MSELoss(reduction="sum"), (X, Y)), "sums over them"),
    "no structure": (net_and(CE, ["text", "more"]), "without a tensor of examples"),
    "no iterable": (net_and(CE, 3), "data: a int"),
    "a tensor alone": (net_and(CE, X), "give a pair"),
    "lengths": (net_and(CE, (X, LABELS[:5])), "24 inputs and 5 targets"),
    "empty": (net_and(CE, []), "holds no example"),
    "empty loader": (net_and(CE, DataLoader([])), "holds no example"),
    "used up": (net_and(CE, iter([])), "holds no example"),
    "nan": (net_and(CE, (X * torch.nan, LABELS)), "inputs of batch 0 hold NaN"),
    "nan targets": (net_and(nn.MSELoss(), [(X, Y), (X, Y * torch.nan)]), "targets of batch 1"),
    "nothing trainable": (
        lambda: sharp.measure(mlp().requires_grad_(False), CE, BOTH),
        "requires_grad=True",
    ),
    "two devices": (lambda: sharp.measure(on_two_devices(), CE, BOTH), "move it to one device"),
    "no module": (lambda: sharp.measure(lambda x: x, CE, BOTH), "give a torch.nn.Module"),
    "no loss": (net_and("cross_entropy", BOTH), "loss: a str"),
    "no such measure": (net_and(CE, BOTH, "sharpnes"), "did you mean sharpness"),
    "no such setting": (net_and(CE, BOTH, K=3), "none of these measures takes it"),
    "a bad value": (net_and(CE, BOTH, k="many"), "k=many"),
    "out of range": (net_and(CE, BOTH, k=999), "57 parameters"),
    "no such params": (net_and(CE, BOTH, params="head.*"), "possible: 0.weight"),
    "needs a run": (net_and(CE, BOTH, "gradient_flow_distance"), "gradient_flow_distance"),
    "needs closed forms": (net_and(CE, BOTH, "uv_flow"), "no closed form"),
    "weights of 0": (net_and(CE, BOTH, weight=lambda b: 0), "0 for every batch"),
    "negative weights": (net_and(CE, BOTH, weight=lambda b: -1), "at least 0"),
    "a wrong shape": (times(torch.ones(3)), "D = 57"),
    "a wrong name": (times({"w": X}), "w: no parameter"),
    "a wrong mapping": (times({"2.bias": X}), "2.bias: of the shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_measured_is_refused_in_one_line(name):
    act, said = REFUSED[name]
    with pytest.raises(sharp.Refused) as refusal:
        act()
    message = str(refusal.value)
    assert said in message and "\n" not in message and len(message) < 400
    assert (
        refusal.value.__cause__ is None and refusal.value.__suppress_context__
    ) or refusal.value.__context__ is None


def test_endless_data_end_at_the_examples_asked_for_or_at_the_memory(monkeypatch):
    assert (
        sharp.measure(mlp(), CE, DataLoader(Endless(), batch_size=8), examples=20)["sharpness_examples"] == 20
    )
    monkeypatch.setattr("sharpcli.api.data.KEPT_SHARE", 1e-7)
    with pytest.raises(sharp.Refused, match="measure fewer"):
        sharp.measure(mlp(), CE, DataLoader(Endless(), batch_size=8))


def test_a_users_own_exception_passes_as_it_is():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sharp.measure(Broken(), CE, (X, LABELS))


def test_a_users_own_measure_is_a_function_of_a_point():
    def shift(at):
        return Estimates({"shift": float(at.curvature.linearization.grad.norm())})

    found = sharp.measure(mlp(), CE, (X, LABELS), ["sharpness", shift])
    assert found["shift"] > 0


def test_the_package_offers_its_names_without_importing_torch():
    code = (
        "import sharpcli as s, sys; assert 'torch' not in sys.modules; assert set(s.__all__) <= set(dir(s))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sharp.nothing
    assert set(sharp.__all__) <= set(dir(sharp)) and all(getattr(sharp, name) for name in sharp.__all__)


# --- both doors ---


def test_python_and_the_command_line_give_the_same_bits(experiment):
    measures = ["sharpness", "trace", "gauss_newton"]
    e = experiment("data.train_examples=60", "model.widths=[12]", f"measure=[{','.join(measures)}]")
    row, _ = measure(e, e.problem.w0, 0, {}, e.measures)
    torch.manual_seed(0)
    module = build_mlp((1, 8, 8), 10, widths=[12], activation="tanh")
    found = sharp.measure(module, half_squared, e.problem.examples, measures)
    for key in ("lambda_1", "lambda_1_error", "trace", "trace_stderr", "ggn_lambda_1", "ggn_trace"):
        assert found[key] == row[key], key


# --- what a hostile user does ---


class Shared(nn.Module):
    """One layer in two places."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 5)
        self.b, self.c = self.a, nn.Linear(5, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def test_a_layer_in_two_places_is_measured_and_survives():
    torch.manual_seed(0)
    module = Shared().double()
    H = sharp.hessian(module, CE, (X.double(), LABELS))
    assert torch.allclose(H.dense(), truth(module, lambda net: CE(net(X.double()), LABELS)))
    sharp.hessian(module, CE, (X.double(), LABELS), params="c.*").dense()
    assert (
        isinstance(module.a.weight, nn.Parameter) and module.a is module.b and module.a.weight.requires_grad
    )
    half = Shared().bfloat16()
    sharp.measure(half, CE, (X, LABELS))
    assert half.a.weight.dtype == torch.bfloat16 and isinstance(half.a.weight, nn.Parameter)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.module = mlp()

    def forward(self, x):
        return 3 * self.module(x)


def test_a_model_with_a_part_named_module_is_not_taken_apart():
    exact = truth(Scaled(), lambda net: CE(net(X.double()), LABELS))
    assert torch.allclose(sharp.hessian(Scaled(), CE, (X, LABELS)).dense().double(), exact, atol=1e-5)


def test_a_watch_measures_in_the_modes_it_was_made_in():
    module = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).eval()
    watch = sharp.Watch(module, CE, (X, LABELS))
    module.train()
    before = copy.deepcopy(module.state_dict())
    watch.step()
    assert watch.rows[0]["lambda_1"] == pytest.approx(watch.rows[1]["lambda_1"], rel=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), module.state_dict().values(), strict=True))
    assert module.training and module[2].training


@pytest.mark.parametrize("context", ["autocast", "no_grad", "inference_mode"])
def test_the_callers_context_changes_no_number(context):
    def loss(model, batch):
        return CE(model(batch[0]), batch[1])

    plain = sharp.measure(mlp(), loss, (X, LABELS), ["sharpness", "directional_sharpness"])
    module = mlp()
    entered = {
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
        "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(),
    }[context]
    with entered:
        found = sharp.measure(module, loss, (X, LABELS), ["sharpness", "directional_sharpness"])
        H = sharp.hessian(module, loss, (X, LABELS))
        assert torch.isfinite(H @ torch.ones(57)).all()
    for column in ("lambda_1", "directional_sharpness"):
        assert found[column] == plain[column]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_that_interpolate_the_targets_have_a_mean_loss_and_a_hessian(dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 30), nn.Tanh(), nn.Linear(30, 2)).to(dtype)
    x = torch.randn(6, 10, dtype=dtype)
    y = module(x).detach()
    found = sharp.measure(module, half_squared, (x, y))
    H = truth(module, lambda call: half_squared(call(x.double()), y.double()))
    assert found["lambda_1"] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-3)
    coupled = half_squared  # and a coupling is still seen there
    with pytest.raises(sharp.Refused, match="no mean over the examples"):
        sharp.measure(module, lambda f, t: coupled(f, t) + (f - t).mean().square(), (x, y))


Named = namedtuple("Named", "image label")


@pytest.mark.parametrize(
    "data",
    [
        Named(X, LABELS),
        [Named(X[:5], LABELS[:5]), Named(X[5:], LABELS[5:])],
        DataLoader([Named(x, y) for x, y in zip(X, LABELS, strict=True)], batch_size=4),
    ],
    ids=["the data", "batches", "of a loader"],
)
def test_a_loss_may_read_the_names_of_a_pair(data):
    def loss(model, batch):
        return CE(model(batch.image), batch.label)

    found = sharp.measure(mlp(), loss, data)
    plain = sharp.measure(mlp(), CE, (X, LABELS))
    assert found["lambda_1"] == pytest.approx(plain["lambda_1"], rel=1e-5)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()

    def forward(self, x, mask):
        return self.net(x @ mask)


def test_inputs_that_belong_to_all_examples_are_never_cut():
    mask = torch.rand(5, 5)
    exact = truth(Masked(), lambda net: CE(net(X.double(), mask.double()), LABELS))
    for settings in ({}, {"chunk": 1}, {"chunk": 7}):
        H = sharp.hessian(Masked(), CE, ({"x": X, "mask": mask}, LABELS), **settings)
        assert torch.allclose(H.dense().double(), exact, atol=1e-5)
    with pytest.raises(sharp.Refused, match="belong together"):
        sharp.measure(Masked(), CE, ({"x": X, "mask": mask}, LABELS), "batch_sharpness", batch_size=4)


def test_texts_of_several_lengths_need_a_weight():
    module = Attention().eval().double()

    def loss(outputs, y):
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    short = [(TOKENS[:3, :4], TOKENS[:3, :4]), (TOKENS[3:], TOKENS[3:])]
    with pytest.raises(sharp.Refused, match="4 to 8 targets"):
        sharp.measure(module, loss, short)

    def mean(net):
        total = sum(loss(net(x), y) * y.numel() for x, y in short)
        return total / sum(y.numel() for _, y in short)

    H = sharp.hessian(module, loss, short, weight=lambda batch: batch[1].numel())
    assert torch.allclose(H.dense(), truth(module, mean), atol=1e-10)


class Keeps(nn.Module):
    """Stores an activation, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.net, self.kept, self.calls = mlp(), None, 0

    def forward(self, x):
        out = self.net(x)
        self.kept, self.calls = out.detach(), self.calls + 1
        return out


def test_what_a_model_stores_in_forward_is_as_before_also_after_it_has_run():
    module = Keeps()
    module(X[:3])
    kept = module.kept
    found = sharp.measure(module, CE, (X, LABELS))
    assert found["lambda_1"] == sharp.measure(mlp(), CE, (X, LABELS))["lambda_1"]
    assert module.kept is kept and module.calls == 1


def test_a_loss_may_take_gradients_in_its_inputs():
    module = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def physics(model, batch):
        x = batch.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope - x.detach()).square().sum() / len(x)

    H = sharp.hessian(module, physics, [X.double()])

    def mean(net):  # the same by torch.func
        slope = torch.func.vmap(torch.func.grad(lambda x: net(x[None]).sum()))(X.double())
        return (slope - X.double()).square().sum() / 24

    exact = truth(module, mean)
    assert torch.allclose(H.dense(), exact, atol=1e-10)


def test_a_loader_s_own_generator_is_not_advanced():
    loader = DataLoader(
        TensorDataset(X, LABELS), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(3)
    )
    before = loader.generator.get_state()
    sharp.measure(mlp(), CE, loader)
    assert torch.equal(before, loader.generator.get_state())


def test_two_hundred_steps_of_a_watch_leave_no_tensor_behind():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    watch = sharp.Watch(net, CE, (torch.randn(8, 1, 8, 8), LABELS[:8]), ["gradient_norm"])

    def alive():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    for _ in range(5):
        watch.step()
    before = alive()
    for _ in range(30):
        watch.step()
    assert alive() <= before + 1


def test_a_watch_goes_back_in_its_run_directory_and_ends_once(folder):
    watch = sharp.Watch(mlp(), CE, (X, LABELS), runs_dir=folder / "runs", checkpoints=True)
    for _ in range(3):
        watch.step()
    state = watch.state_dict()
    for _ in range(3):
        watch.step()
    watch.load_state_dict(state)
    assert watch.last is None and watch.now()["lambda_1"] > 0
    for _ in range(2):
        watch.step()
    run = Run(watch.path)
    steps = [row["step"] for row in run.logged()]
    assert steps == [0, 1, 2, 3, 4, 5]
    assert run.checkpoints() == [0, 1, 2, 3, 4, 5] and run.status == "unfinished"
    watch.close()
    watch.close()
    assert Run(watch.path).status == "complete" and not Run(watch.path).damage()
    for again in (watch.step, watch.now):
        with pytest.raises(sharp.Refused, match="closed"):
            again()


def test_a_refused_watch_leaves_no_run_directory(folder):
    for settings, said in (
        ({"k": 999}, "57 parameters"),
        ({"edge": float("nan")}, "finite"),
        ({"lr": lambda: [0.1]}, "returns one"),
        ({"name": "../x"}, "letters"),
        ({"every": True}, "at least 1"),
        ({"sinks": "tensorbord"}, "possible: tensorboard"),
    ):
        with pytest.raises(sharp.Refused, match=said):
            sharp.Watch(mlp(), CE, (X, LABELS), runs_dir=folder / "runs", **settings)
    assert not (folder / "runs").exists() or len(list((folder / "runs").iterdir())) <= 1


def test_memory_is_stated_beforehand():
    net, D = mlp(), sum(p.numel() for p in mlp().parameters())
    few, many = (sharp.memory(net, CE, (X.repeat(n, 1), LABELS.repeat(n))) for n in (1, 10))
    assert few.vectors == many.vectors == 4 * D * (min(50, D) + 14)
    assert many.graphs / few.graphs == pytest.approx(10, rel=0.25)  # the weights are in both
    tiny = sharp.memory(net, CE, (X[:3], LABELS[:3]))  # fewer than the examples of an estimate
    assert tiny.graphs > 2 * 4 * D  # the graph holds the weights, and not the inputs alone
    bound = sharp.memory(net, CE, (X, LABELS), basis_gb=20 * 4 * D / 1e9)
    assert bound.vectors == 4 * D * (20 + 14)
    assert str(few).endswith("graphs 0.00") and few.total == few.vectors + few.graphs
