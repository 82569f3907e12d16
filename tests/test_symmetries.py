"""The units that `landscape.symmetries` calls exchangeable are: any order of them leaves the outputs as they
are, in every network of ours and in modules of a user's; and weight matching finds the order again."""

import numpy as np
import pytest
import torch
from torch import nn

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.landscape.permutations import matched, reordered
from sharpcli.landscape.symmetries import exchangeable
from sharpcli.problems.network import flat

# the words of a model, and the sizes of its sets of exchangeable units
MODELS = {
    "mlp": (["model.widths=[6,5]"], [6, 5]),
    "deep_linear": (["model.width=6", "model.depth=3"], [6, 6]),
    "cnn": (["model.widths=[5,4]"], [5, 4]),
    # the channels of each stage's shortcut, those that the next stage adds to them, those inside of each
    # block
    "resnet": (["model.depth=8", "model.width=4", "model.norm=none"], [4, 4, 4, 8, 8, 16]),
    "resnet18": (["model.width=4", "model.norm=batch"], [4] * 3 + [8] * 3 + [16] * 3 + [32] * 3),
    "mixer": (["model.width=8", "model.depth=1", "model.patch=4"], None),
    "vit": (["model.width=8", "model.depth=1", "model.heads=2"], [8, 32]),
}
SMALL = ["data=digits", "data.train_examples=20", "problem.dtype=float64", "threads=1", "measure=[]"]


def shuffled(w, layout, sets, seed=0):
    """w with the units of all sets in a random order."""
    rng = np.random.default_rng(seed)
    tensors = [t.view(s) for t, (_, s) in zip(w.split([s.numel() for _, s in layout]), layout, strict=True)]
    for units in sets:
        tensors = reordered(tensors, units, rng.permutation(units.size))
    return torch.cat([t.flatten() for t in tensors])


@pytest.mark.parametrize("model", MODELS)
def test_any_order_of_exchangeable_units_leaves_the_outputs(model):
    words, sizes = MODELS[model]
    words = [f"model={model}", *words, *SMALL]
    problem = build(check(compose(words), words)).problem
    g = torch.Generator().manual_seed(0)
    w = problem.w0 + 0.1 * torch.randn(len(problem.w0), generator=g, dtype=torch.float64)
    x, predict = problem.examples[0], problem.surface.predict
    sets, _ = exchangeable(predict, w, x[:2], problem.layout)
    assert sets and (sizes is None or sorted(s.size for s in sets) == sorted(sizes))
    other = shuffled(w, problem.layout, sets)
    assert (other != w).any()
    assert torch.allclose(predict(other, x), predict(w, x), atol=1e-10, rtol=1e-10)


class Depthwise(nn.Module):
    """A filter for each channel between two convolutions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.c(torch.relu(self.b(self.a(x[:, None])))).mean((2, 3))


class Dense(nn.Module):
    """The hidden units beside what the next layer makes of them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(8, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x[..., 0]))
        return self.c(torch.cat([h, torch.tanh(self.b(h))], 1))


class Gated(nn.Module):
    """Unit i of the first half multiplies unit i of the second: each is one with its gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 10), nn.Linear(5, 2)

    def forward(self, x):
        value, gate = self.a(x[..., 0]).chunk(2, 1)
        return self.b(value * torch.sigmoid(gate))


class Halved(nn.Module):
    """The sum of the first three hidden units is an output of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 7), nn.Linear(7, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x[..., 0]))
        return self.b(h) + h[:, :3].sum(1, keepdim=True)


class Sorted(nn.Module):
    """An operation that tells units apart, and is not known: a running sum."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.b(torch.cumsum(self.a(x[..., 0]), 1))


class Scaled(nn.Module):
    """A held number for each unit, the first two alike and yet not the rest."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
        self.register_buffer("scale", torch.tensor([1.0, 1.0, 2.0, 3.0, 4.0]))

    def forward(self, x):
        return self.b(torch.tanh(self.a(x[..., 0])) * self.scale)


class Stored(nn.Module):
    """Batch norm with running statistics, which are no weights."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        self.norm.running_mean.copy_(torch.arange(5.0))
        self.eval()

    def forward(self, x):
        return self.b(self.norm(self.a(x[..., 0])))


class Twice(nn.Module):
    """One matrix from the hidden units to themselves, applied twice."""

    def __init__(self):
        super().__init__()
        self.a, self.m, self.b = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.a(x[..., 0]))
        return self.b(torch.tanh(self.m(torch.tanh(self.m(h)))))


class Various(nn.Module):
    """Transposed, gated, stacked and scaled: each followed."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.act = nn.Conv2d(1, 6, 2), nn.ConvTranspose2d(6, 8, 2), nn.PReLU(4)
        self.c, self.d = nn.Conv2d(4, 5, 1), nn.Parameter(torch.randn(5))

    def forward(self, x):
        h = nn.functional.hardswish(self.a(x[:, None]))
        h = self.act(nn.functional.glu(self.b(nn.functional.interpolate(h, scale_factor=2.0)), 1))
        h = nn.functional.logsigmoid(self.c(h)).mean((2, 3))
        return torch.stack([h, h * h], 0).sum(0) @ self.d


class Groups(nn.Module):
    """Three groups of two channels, each normalized."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(1, 6, 2), nn.GroupNorm(3, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x[:, None])))).mean((2, 3))


MODULES = {
    Depthwise: [6],
    Dense: [3, 5],
    Gated: [5],
    Halved: [3, 4],
    Sorted: [],
    Scaled: [],
    Stored: [],
    Twice: [6],
    Groups: [2, 2, 2],
    Various: [4, 5, 6],
}


@pytest.mark.parametrize("kind", MODULES)
def test_the_units_of_a_users_module_are_told_apart_where_its_operations_do(kind):
    torch.manual_seed(0)
    module = kind().double()
    layout = [(name, p.shape) for name, p in module.named_parameters()]
    predict = flat(module, [name for name, _ in layout], eager=True)
    w = torch.cat([p.detach().flatten() for p in module.parameters()])
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    sets, _ = exchangeable(predict, w, x, layout)
    assert sorted(s.size for s in sets) == MODULES[kind]
    other = shuffled(w, layout, sets, seed=3)
    assert torch.allclose(predict(other, x), predict(w, x), atol=1e-12)
    if sets:
        assert (other != w).any()
        assert torch.equal(matched(other, w, layout, sets), w)


def test_a_convolution_of_matched_channels_is_found_in_a_residual_network():
    """Weight matching of a permuted copy of a ResNet gives the network back: residual streams, their channels
    that a later stage adds, and the channels inside of blocks at once."""
    words = ["model=resnet", "model.depth=14", "model.width=8", "model.norm=batch", *SMALL]
    problem = build(check(compose(words), words)).problem
    w = problem.w0
    sets, unknown = exchangeable(problem.surface.predict, w, problem.examples[0][:2], problem.layout)
    assert unknown == []
    other = shuffled(w, problem.layout, sets)
    assert torch.equal(matched(other, w, problem.layout, sets), w)
