"""A gradient compared with central differences of its function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor

DIFFERENCE = 1e-2  # relative difference that counts as an error
LENGTHS = (1e-6, 1e-7, 1e-5)  # of the central difference, relative to |w|, in float64
# Directions, of which one must agree: kinks (ReLU) disturb the difference along some, errors along all.
TRIES = 3
FLOOR_EPS = 1e3  # machine epsilons of the value below which its derivative is only rounding

Pair = tuple[float, float]  # the derivative along a direction by the gradient, and by the nearest difference


def disagreement(
    function: Callable[[int], tuple[Callable[[Tensor], float], Tensor]],
    w: Float[Tensor, " D"],
    rng: Generator,
) -> Pair | None:
    """Of a value and its gradient at w in float64, `function(attempt)`, the nearest pair of derivatives where
    in none of `TRIES` attempts they agree; None where in one they do."""
    pairs: list[Pair] = []
    for attempt in range(TRIES):
        value, gradient = function(attempt)
        slope, difference, agrees = _compared(value, gradient, w, rng)
        if agrees:
            return None
        pairs.append((slope, difference))
    return min(pairs, key=lambda pair: abs(pair[0] - pair[1]))


def uniform_curvature(
    function: Callable[[Float[Tensor, " D"]], Float[Tensor, ""]], w: Float[Tensor, " D"]
) -> float | None:
    """The number c of a function whose Hessian at w is c I, as of c/2 |w|^2, and 0 of a linear one; None of
    any other; to six digits. By differences of its gradient along two random directions."""

    def gradient(at: Tensor) -> Tensor:
        leaf = at.detach().clone().requires_grad_()
        value = function(leaf)
        return torch.autograd.grad(value, leaf)[0] if value.requires_grad else torch.zeros_like(w)

    rng, found = Generator().manual_seed(0), []
    h = torch.finfo(w.dtype).eps ** (1 / 3) * max(float(w.norm()), 1.0)
    for _ in range(2):
        v = torch.randn(len(w), generator=rng, dtype=torch.float64).to(w)
        v = v / v.norm()
        ends = [gradient(w + side * h * v) for side in (1, -1)]
        Hv = (ends[0] - ends[1]) / (2 * h)
        c = float(v @ Hv)
        rounding = torch.finfo(w.dtype).eps * float(ends[0].norm()) / h
        if float((Hv - c * v).norm()) > DIFFERENCE * abs(c) + FLOOR_EPS * rounding:
            return None
        found.append(0.0 if abs(c) <= FLOOR_EPS * rounding else c)
    if abs(found[0] - found[1]) > DIFFERENCE * abs(found[0]):
        return None
    return float(f"{found[0]:.6g}")


def _compared(
    value: Callable[[Tensor], float], gradient: Tensor, w: Tensor, rng: Generator
) -> tuple[float, float, bool]:
    """The derivative along u by the gradient, by the nearest difference of values, and whether they agree. u
    is near the gradient itself: along independent directions both would be lost in rounding."""
    noise = torch.randn(len(w), generator=rng, dtype=torch.float64).to(w)
    u = gradient / gradient.norm().clamp_min(torch.finfo(w.dtype).tiny) + noise / noise.norm()
    slope, length, best = float(gradient @ u), max(float(w.norm()), 1.0), math.inf
    for share in LENGTHS:
        h = share * length
        ends = [value(w + side * h * u) for side in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * h)
        floor = FLOOR_EPS * torch.finfo(w.dtype).eps * max(map(abs, ends)) / h
        if abs(difference - slope) < abs(best - slope):
            best = difference
        if abs(difference - slope) <= DIFFERENCE * max(abs(slope), abs(difference)) + floor:
            return slope, difference, True
    return slope, best, False
