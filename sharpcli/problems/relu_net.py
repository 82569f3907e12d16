"""A ReLU network with one output, of any depth, with or without biases and simplified norms; and its compiled
functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sharpcli.problems.compiled import CompiledToy, output, pull

Norm = Literal["none", "layer", "batch"]
EPS = 1e-5  # below which a norm divides by no less


@dataclass(frozen=True)
class ReLUNet:
    """f(z) = a . h_L, h_l = norm(relu(W_l h_(l-1) + b_l)), h_0 = z [d]: `depth` counts the layers of weights,
    L + 1.

    w is (W_1 [h, d], W_2 [h, h], ..., a [h], b_1 [h], b_2, ... with `bias`), h the `width`. `norm` acts on
    each layer of hidden units g: `layer` g / max(|g|, eps); `batch` divides each unit by its root mean square
    over the examples that are evaluated at once.
    """

    d: int
    width: int
    depth: int
    bias: bool
    norm: Norm

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of w by name, in order."""
        layers = ["", *(f"_{i}" for i in range(2, self.depth))]
        shapes: dict[str, tuple[int, ...]] = {
            f"inner{i}": (self.width, self.width if i else self.d) for i in layers
        }
        shapes["a"] = (self.width,)
        return shapes | ({f"b{i}": (self.width,) for i in layers} if self.bias else {})

    def split(self, w: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """The hidden layers' weights, a, and the biases (zeros without)."""
        sizes = [torch.Size(shape) for shape in self.shapes.values()]
        parts = [
            part.view(shape) for part, shape in zip(w.split([s.numel() for s in sizes]), sizes, strict=True)
        ]
        hidden = self.depth - 1
        return parts[:hidden], parts[hidden], parts[hidden + 1 :] or [w.new_zeros(self.width)] * hidden

    def __call__(self, w: Tensor, z: Tensor) -> Tensor:
        """f(z) [n, 1] of inputs [n, d]."""
        inner, a, b = self.split(w)
        for W, shift in zip(inner, b, strict=True):
            z = torch.relu(z @ W.T + shift)
            if self.norm != "none":
                square = z.square().sum(1, keepdim=True) if self.norm == "layer" else z.square().mean(0)
                z = z / square.clamp_min(EPS**2).sqrt()
        return (z @ a)[:, None]

    def norms(self, w: Tensor, x: Tensor) -> dict[str, float]:
        """`barron_norm` = sum_j |a_j| |(w_j, b_j)|, and `trace_floor` = 2 sum_j sqrt(Tr H_wj Tr H_aj) over
        the inputs x [n, d], the least Tr H that scaling (w_j, b_j) by c_j and a_j by 1/c_j can give; of two
        layers without norm."""
        (inner, *deeper), a, b = self.split(w)
        if deeper or self.norm != "none":
            return {}
        hidden = torch.relu(x @ inner.T + b[0])
        ones = 1.0 if self.bias else 0.0
        rows = a.square() * ((hidden > 0) * (x.square().sum(1, keepdim=True) + ones)).mean(
            0
        )  # Tr H of (w_j, b_j)
        return {
            "barron_norm": float((a.abs() * torch.cat([inner, b[0][:, None]], 1).norm(dim=1)).sum()),
            "trace_floor": float(2 * (rows * hidden.square().mean(0)).sqrt().sum()),
        }

    def compiled(self, x: Tensor, y: Tensor) -> CompiledToy | None:
        """The net on x [n, d] and y [n] as compiled functions; None for the norms that have none."""
        labels, h = y.numpy(), self.width
        if (
            self.depth == 2 and self.norm == "none"
        ):  # twice as fast by itself as by the functions of any depth
            return CompiledToy(_output, _pull, x.numpy(), labels, scratch=h + 2)
        if self.depth == 2 and self.norm == "layer":
            return CompiledToy(_output_normed, _pull_normed, x.numpy(), labels, scratch=h + 2)
        if self.norm != "none":
            return None
        sizes = x.new_tensor([h, self.depth - 1]).expand(
            len(x), 2
        )  # the compiled functions read them behind each input
        inputs = torch.cat([x, sizes], 1).numpy()
        return CompiledToy(_output_deep, _pull_deep, inputs, labels, scratch=(self.depth + 1) * h)


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
