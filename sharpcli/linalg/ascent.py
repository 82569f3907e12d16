"""Maximization of a function over a ball or a box, by projected gradient ascent with an adaptive step
length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Norm = Literal["l2", "linf"]
ValueAndGrad = Callable[[Float[Tensor, " D"]], tuple[float, Float[Tensor, " D"]]]

# The step length eta, in units of the radius. A function that increases over no step of MIN_STEP has
# converged; above MAX_STEP the projection alone decides where a step ends, and eta need not grow.
MIN_STEP = 1e-4
MAX_STEP = 1e6


@dataclass(frozen=True)
class Highest:
    """The result of one ascent: the largest `value` reached, its argument `u` [D], the number of `gradients`
    evaluated, and whether the ascent `converged` within its number of steps."""

    value: float
    u: Float[Tensor, " D"]
    gradients: int
    converged: bool


def highest(
    value_and_grad: ValueAndGrad,
    directions: Iterable[Float[Tensor, " D"]],
    radius: float,
    norm: Norm,
    steps: int,
    rtol: float,
) -> list[Highest]:
    """Runs `ascend` once for each direction d [D] and returns the results, largest value first.

    The ascent starts from the boundary: from radius d / |d| in the ball (`l2`), from the vertex radius
    sign(d) in the box (`linf`). A zero d is skipped, having no such point.
    """
    maxima = []
    for d in directions:
        if float(d.norm()) > 0:
            start = radius * (d.sign() if norm == "linf" else d / d.norm())
            maxima.append(ascend(value_and_grad, start, radius, norm, steps, rtol))
    return sorted(maxima, key=lambda maximum: -maximum.value)


def ascend(
    value_and_grad: ValueAndGrad,
    start: Float[Tensor, " D"],
    radius: float,
    norm: Norm,
    steps: int,
    rtol: float,
) -> Highest:
    """Maximizes a function of u [D] over |u| <= radius from `start`, by at most `steps` steps.

    A step tries the projection of u + eta radius s, s = g / |g| in the ball and sign(g) in the box, g the
    gradient at u. eta begins at 1, doubles after a step that increased the value, and falls to a quarter
    after a step that did not, which is undone. On a convex function and for large eta this is the generalized
    power method (Journée, Nesterov, Richtárik & Sepulchre, JMLR 11, 2010), whose every step increases the
    value.

    The ascent has converged when a step with eta >= 1 adds at most `rtol` of the increase since the start, or
    when eta is below `MIN_STEP`. It may end at a local maximum: the value is a lower bound of the largest.

    A trial whose value or gradient is not finite is undone, and the ascent has then not converged: the value
    is the largest finite one reached. Raises FloatingPointError where the start is not finite.
    """
    u = project(start, radius, norm)
    value, g = value_and_grad(u)
    if not _finite(value, g):
        raise FloatingPointError("the function is not finite where its ascent starts")
    start_value, eta, gradients, all_finite = value, 1.0, 1, True
    for _ in range(steps):
        direction = g.sign() if norm == "linf" else g / g.norm().clamp_min(torch.finfo(g.dtype).tiny)
        trial = project(u + eta * radius * direction, radius, norm)
        trial_value, trial_g = value_and_grad(trial)
        gradients += 1
        is_finite = _finite(trial_value, trial_g)
        all_finite &= is_finite
        if is_finite and trial_value > value:
            increase = trial_value - value
            u, value, g, eta = trial, trial_value, trial_g, min(2 * eta, MAX_STEP)
            if increase <= rtol * abs(value - start_value) and eta >= 1:
                return Highest(value, u, gradients, all_finite)
        else:
            eta /= 4
            if eta < MIN_STEP:
                return Highest(value, u, gradients, all_finite)
    return Highest(value, u, gradients, False)


def _finite(value: float, g: Tensor) -> bool:
    """Whether a value and every entry of a gradient are finite."""
    return math.isfinite(value) and math.isfinite(float(g.double().norm()))


def project(u: Float[Tensor, " D"], radius: float, norm: Norm) -> Float[Tensor, " D"]:
    """The nearest point to u of the ball |u|_2 <= radius (`l2`) or of the box |u|_inf <= radius (`linf`)."""
    if norm == "linf":
        return u.clamp(-radius, radius)
    return u * min(1.0, radius / max(float(u.norm()), torch.finfo(u.dtype).tiny))
