"""What the interpolator scores that gradient flow reaches: noisy weights fluctuate around the manifold, and are judged
on it."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.flows import limit
from sharpcli.interpolators import Interpolators
from sharpcli.measures import Estimates, Point


def projected(at: Point, *, rtol: float, tol: float) -> Estimates:
    """With w* = Phi(w), the limit of gradient flow (Newton's steps finish it once residuals are below 1e-3; from further
    away they would lead to a sharper point): `projected_distance` |w - w*|,
    `projected_residual` max |r(w*)|, `projected_converged`, `projected_trace` (1/n) |J(w*)|_F^2 (Tr H there, for half
    squared loss), and each of the problem's scores and norms at w* as `projected_<name>`.

    For toys and small networks: refuses Jacobians of more than 2e7 entries, and tolerances <= 0.
    """
    if not (tol > 0 and rtol > 0):
        raise Refusal(f"measure.projected: rtol={rtol} tol={tol}; both above 0")
    there = Interpolators(at.surface)
    w, residual = limit(there, at.w, rtol, tol)
    values: dict[str, float | bool] = {
        "projected_distance": float((w - at.w).norm()),
        "projected_residual": residual,
        "projected_converged": residual <= tol,
        "projected_trace": float(there.trace(w).detach()),
    }
    values |= {f"projected_{name}": value for name, value in (at.problem.scores(w) | at.problem.norms(w)).items()}
    return Estimates(values, gradients=float(at.surface.examples))
