"""The rise of the loss along the gradient, which SAM descends (Foret et al. 2021, arXiv:2010.01412), and
SAM's edge of stability (Long & Bartlett 2024, arXiv:2309.12488)."""

from __future__ import annotations

import math

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import base_edge, preconditioner


def sam_sharpness(at: Point, *, rho: float) -> Estimates:
    """The rise of the loss at SAM's ascent point, and the curvature above which SAM overshoots. Refuses rho
    <= 0.

    Columns:
        sam_sharpness [loss, exact]: L(w + rho g / |g|) - L(w); 0 where g = 0
        sam_edge [loss/weight^2, exact]: (|g| / 2 rho)(sqrt(1 + 8 rho / (lr |g|)) - 1), the curvature above
            which SAM with step size lr overshoots along g: it tends to 2/lr for rho -> 0 and to 0 with |g|;
            null for lr = 0, and around a rule with another edge than 2/lr, as momentum, or with a
            preconditioner, as Adam
    """
    if not rho > 0:
        raise Refusal(f"measure.sam_sharpness.rho={rho}: the ascent radius is above 0")
    g = at.curvature.linearization.grad
    gradient_norm = float(g.double().norm())
    if not gradient_norm:
        return Estimates({"sam_sharpness": 0.0, "sam_edge": 0.0}, gradients=1)
    rise = float(at.surface.value(at.w + (rho / gradient_norm) * g)) - float(at.surface.value(at.w))
    base = base_edge(at.optimizer, at.lr)
    of_descent = base is None or math.isclose(base, 2 / at.lr)
    divides = at.state is not None and preconditioner(at.optimizer, at.state, at.lr) is not None
    edge = (
        gradient_norm / (2 * rho) * (math.sqrt(1 + 8 * rho / (at.lr * gradient_norm)) - 1)
        if at.lr > 0 and of_descent and not divides
        else None
    )
    return Estimates({"sam_sharpness": rise, "sam_edge": edge}, gradients=5 / 3)
