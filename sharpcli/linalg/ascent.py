"""The largest value of a function within a ball or a box: projected gradient ascent with a step that
adapts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
SMALLEST = 1e-4  # steps, in radii, below which the ascent has converged


@dataclass(frozen=True)
class Highest:
    """The largest `value` found, at `u` [D]; `gradients` spent; whether the last start `converged` before its
    `steps`."""

    value: float
    u: Tensor
    gradients: int
    converged: bool


def highest(
    value_and_grad: Callable[[Tensor], tuple[float, Tensor]],
    directions: Iterable[Tensor],
    radius: float,
    norm: Norm,
    steps: int,
    rtol: float,
) -> list[Highest]:
    """The maxima reached from the boundary in each direction (the box: from its vertex), best first; a
    direction that is zero is left out."""
    found = []
    for d in directions:
        if float(d.norm()) > 0:
            start = radius * (d.sign() if norm == "linf" else d / d.norm())
            found.append(ascend(value_and_grad, start, radius, norm, steps, rtol))
    return sorted(found, key=lambda one: -one.value)


def ascend(
    value_and_grad: Callable[[Tensor], tuple[float, Tensor]],
    start: Tensor,
    radius: float,
    norm: Norm,
    steps: int,
    rtol: float,
) -> Highest:
    """Maximizes over |u| <= radius from `start` [D].

    The step direction is g / |g| in the ball and sign(g) in the box, of length eta radius; eta doubles after
    a step that climbed and is cut to a quarter after one that did not. On a convex function a large eta is
    the generalized power method, which climbs at every step. Converged when a step climbs by less than rtol
    of what was climbed, or eta has become small. What is found is a lower bound.
    """
    u = project(start, radius, norm)
    value, g = value_and_grad(u)
    first, eta, gradients = value, 1.0, 1
    for _ in range(steps):
        direction = g.sign() if norm == "linf" else g / g.norm().clamp_min(torch.finfo(g.dtype).tiny)
        trial = project(u + eta * radius * direction, radius, norm)
        higher, slope = value_and_grad(trial)
        gradients += 1
        if higher > value:
            gain, u, value, g, eta = higher - value, trial, higher, slope, min(2 * eta, 1e6)
            if gain <= rtol * abs(value - first) and eta >= 1:
                return Highest(value, u, gradients, True)
        else:
            eta /= 4
            if eta < SMALLEST:
                return Highest(value, u, gradients, True)
    return Highest(value, u, gradients, False)


def project(u: Tensor, radius: float, norm: Norm) -> Tensor:
    """The nearest point of the ball |u|_2 <= radius or of the box |u|_inf <= radius."""
    if norm == "linf":
        return u.clamp(-radius, radius)
    return u * min(1.0, radius / max(float(u.norm()), torch.finfo(u.dtype).tiny))
