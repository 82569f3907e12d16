"""How long the gradient is."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def gradient_norm(at: Point) -> Estimates:
    """`gradient_norm` = |grad L(w)|_2, exact."""
    return Estimates({"gradient_norm": float(at.curvature.linearization.grad.double().norm())}, gradients=1)
