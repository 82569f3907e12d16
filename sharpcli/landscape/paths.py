"""Curves between two minima: the line, a quadratic Bezier curve and a chain of two lines whose middle point
is fitted, and the barrier along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sharpcli.landscape.surface import LossSurface

Curve = Literal["line", "bezier", "chain"]


class Barrier(NamedTuple):
    """The `height` of a barrier at `t`, and the `error` that the finite number of points leaves."""

    height: float
    t: float
    error: float


def shares(curve: Curve, t: float) -> tuple[float, float, float]:
    """The point at t of the curve is a w_1 + b theta + c w_2: (a, b, c). Garipov et al. 2018,
    arXiv:1802.10026, equations (2) and (3)."""
    if curve == "line":
        return 1 - t, 0.0, t
    if curve == "bezier":
        return (1 - t) ** 2, 2 * t * (1 - t), t**2
    return (1 - 2 * t, 2 * t, 0.0) if t < 0.5 else (0.0, 2 - 2 * t, 2 * t - 1)


def places(curve: Curve, points: int) -> list[float]:
    """The values of t at which a curve is evaluated: `points` from 0 to 1, equally far apart. Of a chain t =
    1/2 is one of them, where its two lines meet and the loss may have a peak of any sharpness: of an even
    number half lies on [0, 1/2], and half, a little closer, beyond."""
    if curve != "chain" or points % 2:
        return [i / (points - 1) for i in range(points)]
    half = points // 2
    return [*(i / (half - 1) / 2 for i in range(half)), *(0.5 + i / half / 2 for i in range(1, half + 1))]


def point(curve: Curve, t: float, first: Tensor, middle: Tensor, last: Tensor) -> Tensor:
    """w(t) [D]; exactly the ends at t = 0 and 1."""
    a, b, c = shares(curve, t)
    return a * first + b * middle + c * last


def fit(
    surface_of: Callable[[int], LossSurface],
    curve: Curve,
    first: Tensor,
    last: Tensor,
    steps: int,
    lr: float,
    generator: torch.Generator,
    tell: Callable[[int, float], None] = lambda step, value: None,
) -> Tensor:
    """The middle point theta [D] of a curve that lowers E_t L(w(t)), t uniform on [0, 1]: stochastic descent
    by Adam from the midpoint, a new t and `surface_of(step)` each step; its step size is `lr` times the root
    mean square of w_2 - w_1, and falls to 0 along a half cosine."""
    middle = ((first + last) / 2).requires_grad_()
    scale = float((last - first).square().mean().sqrt())
    adam = torch.optim.Adam([middle], lr=lr * scale)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(steps, 1))
    for step in range(steps):
        t = float(torch.rand((), generator=generator, dtype=torch.float64))
        value, gradient = surface_of(step).value_and_grad(point(curve, t, first, middle.detach(), last))
        middle.grad = gradient * shares(curve, t)[1]
        adam.step()
        falling.step()
        tell(step + 1, value)
    return middle.detach()


def barrier(ts: Sequence[float], losses: Sequence[float]) -> Barrier:
    """The largest excess of L(w(t)) over the line between the losses at the ends, (1 - t) L(w_1) + t L(w_2)
    (Frankle et al. 2020, arXiv:1912.05671). The error is how much higher a curve that is concave around its
    top may rise between the points: it lies below the lines through the two points to either side. Infinite
    where a loss is not finite."""
    excess = [value - (1 - t) * losses[0] - t * losses[-1] for t, value in zip(ts, losses, strict=True)]
    if not all(map(_is_finite, excess)):
        return Barrier(float("inf"), float("nan"), float("inf"))
    k = max(range(len(excess)), key=excess.__getitem__)
    if k in (0, len(excess) - 1):
        return Barrier(excess[k], ts[k], 0.0)
    return Barrier(excess[k], ts[k], max(_rise(ts, excess, k), _rise(ts, excess, k - 1)))


def _rise(ts: Sequence[float], values: Sequence[float], i: int) -> float:
    """How far above the higher of points i and i + 1 the lines through the points before and after them
    meet; at an end of the curve, the only line at the end."""
    width, highest = ts[i + 1] - ts[i], max(values[i : i + 2])
    up = (values[i] - values[i - 1]) / (ts[i] - ts[i - 1]) if i else None
    down = (values[i + 1] - values[i + 2]) / (ts[i + 2] - ts[i + 1]) if i + 2 < len(values) else None
    if up is None or down is None:
        slope, start = (up, values[i]) if up is not None else (down, values[i + 1])
        return max(0.0, start + (slope or 0.0) * width - highest)
    if up + down <= 0:
        return 0.0
    at = (values[i + 1] + down * width - values[i]) / (up + down)
    return max(0.0, values[i] + up * min(max(at, 0.0), width) - highest)


def _is_finite(value: float) -> bool:
    return value - value == 0
