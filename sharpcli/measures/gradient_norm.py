"""The length of the gradient."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def gradient_norm(at: Point) -> Estimates:
    """The Euclidean norm of the gradient.

    Columns:
        gradient_norm [loss/weight, exact]: |g|_2, g the gradient of L
    """
    return Estimates({"gradient_norm": float(at.curvature.linearization.grad.double().norm())}, gradients=1)
