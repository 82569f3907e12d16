"""ReLU networks of any depth on toy data, with and without bias and simplified norms: a small teacher (Wu & Su 2023,
arXiv:2305.17490) and XOR (Wen, Li & Ma 2023, arXiv:2307.11007), whose flattest interpolators have a small Barron norm without
bias, and need not generalize with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.kernel import Kernel, output, pull
from sharpcli.problem import Problem
from sharpcli.rng import generator
from sharpcli.toys import layout, normal, own, regression, signs

TESTS = 2000  # fresh examples that the test error is over
Init = Literal["normal", "fan_in"]
Norm = Literal["none", "layer", "batch"]
EPS = 1e-5  # below which a norm divides by no less


def teacher(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    width: int,
    depth: int,
    norm: Norm,
    neurons: int,
    bias: bool,
    init: Init,
    scale: float,
    rescale: float,
    instance: int | None,
) -> Problem:
    """f(z) = sum_j a_j relu(w_j.z + b_j) on n inputs uniform on the unit sphere, labelled by a net of `neurons` unit
    vectors with a = +-sqrt(d) in turn; or on one's own inputs and labels, and then without a test error.

    w is (w_1, ..., w_h [h, d], a [h], b [h] with `bias`), drawn as N(0, 1), or with `fan_in` over the square root of a
    unit's inputs, times `scale`. `depth` counts the layers of weights: from 3 on every further hidden layer is [h, h].
    `norm` acts on each layer of hidden units g: `layer` g / max(|g|, eps) (Wen et al. 2023); `batch` divides each unit by
    its root mean square over the examples evaluated at once. `test_error` is the mean squared error on 2,000 fresh inputs
    over their labels' variance. `barron_norm` is sum_j |a_j| |(w_j, b_j)|, and `trace_floor`
    2 sum_j sqrt(Tr H_wj Tr H_aj), the least Tr H that scaling (w_j, b_j) by c_j and a_j by 1/c_j can give, of two layers
    without norm. `rescale` r does that to the start, the c_j log-uniform in [1, r] (Dinh et al. 2017, arXiv:1703.04933).
    Refuses sizes below 1, and a rescaling below 1 or of other nets.
    """
    _sizes(d=d, n=n, width=width, depth=depth, neurons=neurons)
    if data is not None:
        x, y = own(data, 2, "teacher")
        net = _Net(x.shape[1], width, depth, bias, norm)
        return _problem(x, y[:, 0], len(x), net, init, (scale, rescale), seed, chunk)
    instance = seed if instance is None else instance
    z = torch.nn.functional.normalize(normal((n + TESTS, d), instance, "relu-inputs"), dim=1)
    inner = torch.nn.functional.normalize(normal((neurons, d), instance, "relu-teacher"), dim=1)
    outer = d**0.5 * (1.0 - 2.0 * (torch.arange(neurons) % 2)).double()
    return _problem(
        z, torch.relu(z @ inner.T) @ outer, n, _Net(d, width, depth, bias, norm), init, (scale, rescale), seed, chunk
    )


def xor(
    seed: int,
    chunk: int,
    *,
    d: int,
    n: int,
    width: int,
    depth: int,
    norm: Norm,
    bias: bool,
    init: Init,
    scale: float,
    rescale: float,
    instance: int | None,
) -> Problem:
    """The same net on y = x_1 x_2, x in {-1, 1}^d: the parity that a bias lets the flattest interpolator memorize.

    `test_error` as for the teacher, here with variance 1, and `test_accuracy` is the share of signs that are right.
    """
    _sizes(d=d, n=n, width=width, depth=depth)
    if d < 2:
        raise Refusal(f"problem.d={d}: the parity is of two coordinates; take at least 2")
    z = signs((n + TESTS, d), seed if instance is None else instance, "xor")
    return _problem(z, z[:, 0] * z[:, 1], n, _Net(d, width, depth, bias, norm), init, (scale, rescale), seed, chunk)


def _sizes(**sizes: int) -> None:
    if bad := [f"problem.{name}={size}" for name, size in sizes.items() if size < 1]:
        raise Refusal(f"{bad[0]}: give at least 1")
    if sizes["depth"] < 2:
        raise Refusal("problem.depth=1: a network has at least two layers; problem=least_squares is the linear one")


@dataclass(frozen=True)
class _Net:
    """Which network: the shapes of w = (inner, inner_2, ..., a, b, b_2, ...), and what it computes."""

    d: int
    width: int
    depth: int
    bias: bool
    norm: Norm

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        hidden = ["", *(f"_{i}" for i in range(2, self.depth))]
        shapes: dict[str, tuple[int, ...]] = {f"inner{i}": (self.width, self.width if i else self.d) for i in hidden}
        return shapes | {"a": (self.width,)} | ({f"b{i}": (self.width,) for i in hidden} if self.bias else {})

    def split(self, w: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """The hidden layers' weights, a, and the biases (zeros without)."""
        sizes = [torch.Size(shape) for shape in self.shapes.values()]
        parts = [part.view(shape) for part, shape in zip(w.split([s.numel() for s in sizes]), sizes, strict=True)]
        hidden = self.depth - 1
        return parts[:hidden], parts[hidden], parts[hidden + 1 :] or [w.new_zeros(self.width)] * hidden

    def __call__(self, w: Tensor, z: Tensor) -> Tensor:
        inner, a, b = self.split(w)
        for W, shift in zip(inner, b, strict=True):
            z = torch.relu(z @ W.T + shift)
            if self.norm != "none":
                square = z.square().sum(1, keepdim=True) if self.norm == "layer" else z.square().mean(0)
                z = z / square.clamp_min(EPS**2).sqrt()
        return (z @ a)[:, None]


def _problem(
    z: Tensor, y: Tensor, n: int, net: _Net, init: Init, scales: tuple[float, float], seed: int, chunk: int
) -> Problem:
    scale, rescale = scales
    if not rescale >= 1 or (rescale > 1 and (net.depth > 2 or net.norm != "none")):
        raise Refusal(f"problem.rescale={rescale}: at least 1, and only for two layers without norm")
    rng = generator(seed, "start", 0)
    x, right = z[:n].contiguous(), y[:n].contiguous()
    pieces = []
    for name, shape in net.shapes.items():
        piece = torch.randn(shape, generator=rng, dtype=torch.float64)
        fan_in = 1 if init == "normal" or name.startswith("b") else shape[-1]
        pieces.append((piece / fan_in**0.5).flatten())

    w0 = scale * torch.cat(pieces)
    if rescale > 1:
        c = rescale ** torch.rand(net.width, generator=rng, dtype=torch.float64)
        inner, a, *b = (
            part.view(shape) for part, shape in zip(w0.split([p.numel() for p in pieces]), net.shapes.values(), strict=True)
        )
        w0 = torch.cat([(inner * c[:, None]).flatten(), a / c, *(shift * c for shift in b)])

    def scores(w: Tensor) -> dict[str, float]:
        if len(z) == n:
            return {}
        f, right = net(w, z[n:])[:, 0], y[n:]
        return {
            "test_error": float((f - right).square().mean() / right.var()),
            "test_accuracy": float((f.sign() == right.sign()).double().mean()),
        }

    def norms(w: Tensor) -> dict[str, float]:
        (inner, *deeper), a, b = net.split(w)
        if deeper or net.norm != "none":
            return {}
        hidden = torch.relu(x @ inner.T + b[0])
        rows = a.square() * ((hidden > 0) * (x.square().sum(1, keepdim=True) + net.bias)).mean(0)  # Tr H of (w_j, b_j)
        return {
            "barron_norm": float((a.abs() * torch.cat([inner, b[0][:, None]], 1).norm(dim=1)).sum()),
            "trace_floor": float(2 * (rows * hidden.square().mean(0)).sqrt().sum()),
        }

    compiled, h = None, net.width
    if net.depth == 2 and net.norm != "batch":  # twice as fast by themselves as by the functions of any depth
        functions = {"none": (_output, _pull), "layer": (_output_normed, _pull_normed)}[net.norm]
        compiled = Kernel(*functions, x.numpy(), right.numpy(), scratch=h + 2)
    elif net.norm == "none":
        size = x.new_tensor([h, net.depth - 1]).expand(n, 2)  # which the compiled functions read at the end of every input
        compiled = Kernel(_output_deep, _pull_deep, torch.cat([x, size], 1).numpy(), right.numpy(), scratch=(net.depth + 1) * h)
    return regression(
        net,
        w0,
        x,
        right[:, None],
        chunk,
        layout(**net.shapes),
        kernel=compiled,
        scores=scores,
        norms=norms,
        joint=net.norm == "batch",
    )


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    d, h, f = z.size, c.size - 2, 0.0
    bias = w.size > h * d + h
    for j in range(h):
        s = w[h * d + h + j] if bias else 0.0
        for i in range(d):
            s += w[j * d + i] * z[i]
        c[j] = s
        f += w[h * d + j] * max(s, 0.0)
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    d, h = z.size, c.size - 2
    bias = w.size > h * d + h
    for j in range(h):
        if c[j] > 0.0:
            factor = s * w[h * d + j]
            for i in range(d):
                g[j * d + i] += factor * z[i]
            g[h * d + j] += s * c[j]
            if bias:
                g[h * d + h + j] += factor


@output
def _output_normed(w, z, c):  # type: ignore[no-untyped-def]
    d, h, f, square = z.size, c.size - 2, 0.0, 0.0
    bias = w.size > h * d + h
    for j in range(h):
        s = w[h * d + h + j] if bias else 0.0
        for i in range(d):
            s += w[j * d + i] * z[i]
        c[j] = s
        square += max(s, 0.0) ** 2
        f += w[h * d + j] * max(s, 0.0)
    c[h] = max(square, EPS**2) ** 0.5
    c[h + 1] = f / c[h] if square > EPS**2 else 0.0  # what the norm itself passes on
    return f / c[h]


@pull
def _pull_normed(w, z, c, s, g):  # type: ignore[no-untyped-def]
    d, h = z.size, c.size - 2
    bias = w.size > h * d + h
    size, f = c[h], c[h + 1]
    for j in range(h):
        if c[j] > 0.0:
            factor = s * (w[h * d + j] - f * c[j] / size) / size
            for i in range(d):
                g[j * d + i] += factor * z[i]
            g[h * d + j] += s * c[j] / size
            if bias:
                g[h * d + h + j] += factor


@output
def _output_deep(w, z, c):  # type: ignore[no-untyped-def]
    h, hidden = int(z[-2]), int(z[-1])
    d, below, weights, f = z.size - 2, 0, 0, 0.0
    a = h * d + (hidden - 1) * h * h
    bias = w.size > a + h
    for layer in range(hidden):
        units = layer * h
        for j in range(h):
            s = w[a + h + units + j] if bias else 0.0
            if layer:
                for i in range(h):
                    s += w[weights + j * h + i] * c[below + i]
            else:
                for i in range(d):
                    s += w[j * d + i] * z[i]
            c[units + j] = max(s, 0.0)
        below, weights = units, h * d + layer * h * h
    for j in range(h):
        f += w[a + j] * c[below + j]
    return f


@pull
def _pull_deep(w, z, c, s, g):  # type: ignore[no-untyped-def]
    h, hidden = int(z[-2]), int(z[-1])
    d, units, back, further = z.size - 2, (hidden - 1) * h, hidden * h, (hidden + 1) * h
    a = h * d + (hidden - 1) * h * h
    bias = w.size > a + h
    for j in range(h):
        c[back + j] = s * w[a + j]
        g[a + j] += s * c[units + j]
    for layer in range(hidden - 1, -1, -1):
        units, below, weights = layer * h, (layer - 1) * h, h * d + (layer - 1) * h * h
        if layer:
            c[further : further + h] = 0.0
        for j in range(h):
            if c[units + j] > 0.0:
                factor = c[back + j]
                if layer:
                    for i in range(h):
                        g[weights + j * h + i] += factor * c[below + i]
                        c[further + i] += factor * w[weights + j * h + i]
                else:
                    for i in range(d):
                        g[j * d + i] += factor * z[i]
                if bias:
                    g[a + h + units + j] += factor
        back, further = further, back
