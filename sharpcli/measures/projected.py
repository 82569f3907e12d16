"""What the interpolator scores that gradient flow reaches: noisy weights fluctuate around the manifold, and are judged
on it."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.flows import descend
from sharpcli.interpolators import Interpolators
from sharpcli.measures import Estimates, Point


def projected(at: Point, *, steps: int, tol: float) -> Estimates:
    """With w* where gradient descent from w ends (by at most `steps` steps of 1/lambda_1; once residuals are below 1e-3
    Newton's steps finish it, which from further away would lead to a sharper point): `projected_distance` |w - w*|,
    `projected_residual` max |r(w*)|, `projected_converged`, `projected_trace` (1/n) |J(w*)|_F^2 (Tr H there, for half
    squared loss), and each of the problem's scores and norms at w* as `projected_<name>`.

    For toys and small networks: refuses Jacobians of more than 2e7 entries, and tol <= 0.
    """
    if not (tol > 0 and steps >= 0):
        raise Refusal(f"measure.projected: steps={steps} tol={tol}; steps at least 0, tol above 0")
    there = Interpolators(at.surface)
    w, residual = descend(there, at.w, at.problem.kernel, steps, tol)
    values: dict[str, float | bool] = {
        "projected_distance": float((w - at.w).norm()),
        "projected_residual": residual,
        "projected_converged": residual <= tol,
        "projected_trace": float(there.trace(w).detach()),
    }
    values |= {f"projected_{name}": value for name, value in (at.problem.scores(w) | at.problem.norms(w)).items()}
    return Estimates(values, gradients=float(at.surface.examples))
