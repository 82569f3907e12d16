"""Critical sharpness: 2 / lr_c, lr_c the smallest step along the optimizer's own update that does not lower
the loss; Kalra et al. 2026, arXiv:2601.16979. By values of the loss alone, without a gradient's graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point, update

SUM_ROUNDING = 4.0  # roundings of a loss, in units of its dtype's
GROWTH = 4.0  # by which a step is at most enlarged where the loss still falls


def critical_sharpness(at: Point, *, tol: float, max_forwards: int) -> Estimates:
    """2 / lr_c, with lr_c the smallest lr > 0 at which L(w - lr d) = L(w), for the direction d of the
    optimizer's next update w - lr d; the gradient where no run gives the optimizer's state.

    On a quadratic with d = grad L it is g.Hg / |g|^2, at most lambda_1. The root of (L(w - lr d) - L(w)) / lr
    is found by the secant method inside a bracket, from the step found at the previous measurement: five or
    six forward passes. Refuses tol <= 0 and fewer than 3 forward passes.

    Columns:
        critical_sharpness [loss/weight^2, error _error]: 2 / critical_lr; null where d does not descend;
            error: half of the bracket of the root, or the last change of the secant method, and rounding
        critical_lr [-]: lr_c
        critical_forwards [-]: forward passes spent
        critical_sharpness_converged [-]: whether the error is at most `tol` critical_sharpness
    """
    if not tol > 0 or max_forwards < 3:
        raise Refusal(
            f"measure.critical_sharpness: tol={tol} and max_forwards={max_forwards}; tol above 0, "
            f"max_forwards at least 3"
        )
    d, slope, gradients = update(at)
    if not slope > 0:
        none = {"critical_sharpness": None, "critical_lr": None, "critical_forwards": 0}
        return Estimates(none | {"critical_sharpness_converged": False}, gradients=gradients)
    left = at.left(1, "critical_sharpness")
    last = 0.0 if left is None else float(left[0, 0])
    first = last if 0 < last < math.inf else _guess(at, d)
    search = _Search(at, d, slope)
    lr, error = search.root(first, tol, max_forwards)
    row: dict[str, object] = {"critical_forwards": search.forwards}
    sharpness, relative = (2 / lr, error / lr) if lr > 0 else (None, math.inf)
    row |= {"critical_sharpness": sharpness, "critical_lr": lr or None}
    if sharpness is not None:
        row["critical_sharpness_error"] = sharpness * relative
    row["critical_sharpness_converged"] = relative <= tol
    warm = torch.full((1, len(d)), lr, dtype=torch.float64).to(at.w)
    return Estimates(row, gradients=gradients + search.forwards / 3, warm=warm)


def _guess(at: Point, d: Tensor) -> float:
    """A first step: the run's own, or where that moves no weight one that moves the weights by a hundredth of
    their norm."""
    scale = max(float(at.w.norm()), 1e-3) / float(d.norm())
    return at.lr if at.lr > torch.finfo(at.w.dtype).eps * scale else 0.01 * scale


class _Search:
    """The root of psi(lr) = (L(w - lr d) - L(w)) / lr, where psi(0) = -slope."""

    def __init__(self, at: Point, d: Tensor, slope: float) -> None:
        self.at, self.d, self.slope, self.forwards = at, d, slope, 1
        self.loss = float(at.surface.value(at.w))

    def psi(self, lr: float) -> float:
        """psi; infinite where the loss is no number, far beyond the root."""
        self.forwards += 1
        value = (float(self.at.surface.value(self.at.w - lr * self.d)) - self.loss) / lr
        return value if math.isfinite(value) else math.inf

    def root(self, lr: float, tol: float, max_forwards: int) -> tuple[float, float]:
        """The root and its error; 0 where no bracket is found in `max_forwards`."""
        below, above = (0.0, -self.slope), (math.inf, math.inf)
        last, change = 0.0, math.inf
        while self.forwards < max_forwards and lr > 0:  # halving may end below the least number
            value = self.psi(lr)
            if value > 0:
                above = (lr, value)
            else:
                below = (lr, value)
            change, last = abs(lr - last), lr
            estimate = self._next(below, above)
            if above[0] < math.inf and abs(estimate - lr) <= tol * lr / 2:
                change, last = abs(estimate - lr), estimate
                break
            lr = estimate
        if above[0] == math.inf:
            return 0.0, math.inf
        estimate = self._next(below, above)
        eps = SUM_ROUNDING * torch.finfo(self.at.w.dtype).eps
        rounding = 2 * eps * abs(self.loss) / self.slope  # of the root: psi has about the slope -psi(0) / lr
        return estimate, min(max(change, abs(estimate - last)), above[0] - below[0]) + rounding

    def _next(self, below: tuple[float, float], above: tuple[float, float]) -> float:
        """The next step: by the secant through the bracket, by that through psi(0) where nothing is above
        the root yet, at most `GROWTH` times as far; in the middle of the bracket where the loss is no number
        above."""
        (a, at_a), (b, at_b) = below, above
        if b == math.inf:
            secant = a * self.slope / max(self.slope + at_a, 1e-300) if a else math.inf
            return min(max(secant * 1.05, 1.2 * a), GROWTH * a)
        if at_b == math.inf:
            return (a + b) / 2 if a else b / GROWTH
        return a - at_a * (b - a) / (at_b - at_a)
