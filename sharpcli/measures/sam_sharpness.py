"""What SAM sees: the rise of the loss along the gradient (Foret et al. 2021) and SAM's edge of stability
(Long & Bartlett 2024, arXiv:2309.12488)."""

from __future__ import annotations

import math

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def sam_sharpness(at: Point, *, rho: float) -> Estimates:
    """`sam_sharpness` = L(w + rho g / |g|) - L(w), and `sam_edge` = (|g| / 2 rho)(sqrt(1 + 8 rho / (lr |g|))
    - 1), the curvature above which SAM with step size lr overshoots along g; it tends to 2/lr for rho -> 0
    and to 0 with |g|.

    Exact; both 0 where g = 0. Refuses rho <= 0.
    """
    if not rho > 0:
        raise Refusal(f"measure.sam_sharpness.rho={rho}: the ascent radius is above 0")
    g = at.curvature.linearization.grad
    size = float(g.double().norm())
    if not size:
        return Estimates({"sam_sharpness": 0.0, "sam_edge": 0.0}, gradients=1)
    rise = float(at.surface.value(at.w + (rho / size) * g)) - float(at.surface.value(at.w))
    edge = size / (2 * rho) * (math.sqrt(1 + 8 * rho / (at.lr * size)) - 1) if at.lr > 0 else None
    return Estimates({"sam_sharpness": rise, "sam_edge": edge}, gradients=5 / 3)
