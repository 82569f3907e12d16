"""Critical sharpness: 2 / lr_c, lr_c the step along the optimizer's own update beyond which the loss is
higher; Kalra et al. 2026, arXiv:2601.16979. By values of the loss alone, without a gradient's graph."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point, update

SUM_ROUNDING = 4.0  # roundings of a loss, in units of its dtype's
GROWTH = 4.0  # by which a step is at most enlarged where the loss still falls
SLOW = 2  # steps in turn that do not halve the bracket, after which it is cut in the middle


def critical_sharpness(at: Point, *, tol: float, max_forwards: int) -> Estimates:
    """2 / lr_c, with lr_c > 0 a step at which L(w - lr_c d) = L(w) and beyond which it is higher, for the
    direction d of the optimizer's next update w - lr d; the gradient where no run gives the optimizer's
    state. Where the loss along d falls, rises, and falls below L(w) again, several steps are such: it is then
    one of them, and need not be the smallest.

    On a quadratic with d = grad L it is g.Hg / |g|^2, at most lambda_1. The root of (L(w - lr d) - L(w)) / lr
    is enclosed in a bracket by the secant method, from the step found at the previous measurement. Refuses
    tol <= 0 and fewer than 3 forward passes.

    Columns:
        critical_sharpness [loss/weight^2, error _error]: 2 / critical_lr; null where d does not descend;
            error: to the farther end of the bracket that holds the root, and rounding
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
        """The root and its error, the distance to the farther end of a bracket and rounding; 0 where no
        bracket is found in `max_forwards`.

        Each step lies at least tol / 2 within the bracket, so that it closes from both sides: that the
        estimate hardly changes would show nothing of a psi that is nearly flat beyond the root."""
        below, above, beyond, slow = (0.0, -self.slope), (math.inf, math.inf), tol, 0
        weight_below = weight_above = 1.0  # of the value at an end that stays, as the Illinois method has it
        while self.forwards < max_forwards and lr > 0:  # halving may end below the least number
            value, width = self.psi(lr), above[0] - below[0]
            if value > 0:
                above, weight_below, weight_above = (
                    (lr, value),
                    weight_below / 2 if above[0] < math.inf else 1.0,
                    1.0,
                )
            else:
                below, weight_above, weight_below = (lr, value), weight_above / 2, 1.0
            (a, at_a), (b, at_b) = below, above
            if b == math.inf:  # past the secant through psi(0), farther each time
                secant = a * self.slope / max(self.slope + at_a, 1e-300)
                lr, beyond = min(max(secant, a) * (1 + beyond), GROWTH * a), 8 * beyond
                continue
            estimate = _zero(a, at_a, b, at_b)
            if max(b - estimate, estimate - a) <= tol * estimate:
                break
            slow = slow + 1 if b - a > width / 2 else 0
            least = min(tol * estimate / 2, (b - a) / 2)
            if at_b == math.inf or slow >= SLOW:
                lr, slow = _middle(a, b), 0
            else:
                lr = min(max(_zero(a, weight_below * at_a, b, weight_above * at_b), a + least), b - least)
        if above[0] == math.inf:
            return 0.0, math.inf
        (a, at_a), (b, at_b) = below, above
        estimate = _zero(a, at_a, b, at_b)
        return estimate, max(b - estimate, estimate - a) + self._rounding(a, at_a, b, at_b)

    def _rounding(self, a: float, at_a: float, b: float, at_b: float) -> float:
        """By how much the rounding of the loss moves the root: by that of psi over its slope in the bracket,
        or where rounding hides that over -psi(0) / lr, its slope on a quadratic."""
        noise = 2 * SUM_ROUNDING * torch.finfo(self.at.w.dtype).eps * abs(self.loss) / b
        if 4 * noise < at_b - at_a < math.inf:
            return noise * max((b - a) / (at_b - at_a), b / self.slope)
        return noise * b / self.slope


def _zero(a: float, at_a: float, b: float, at_b: float) -> float:
    """Where the line through two points on both sides of 0 is 0; the middle where the value at b is none."""
    return _middle(a, b) if at_b == math.inf else a - at_a * (b - a) / (at_b - at_a)


def _middle(a: float, b: float) -> float:
    """The middle of a bracket on a logarithmic scale, of one from 0 a part of its end."""
    return math.sqrt(a * b) if a else b / GROWTH
