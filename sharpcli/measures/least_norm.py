"""How far a toy's solution is from the solution of least norm, by a convex solver."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def least_norm(at: Point, *, positive: bool) -> Estimates:
    """What the problem says of its solutions of least norm, each with the solver's relative duality gap
    `least_norm_gap`. On problem=uv `least_l1_norm`, that of basis pursuit, and `basis_pursuit_error`, its
    error as `recovery_error`. On matrices of any depth `least_nuclear_norm` among those that fit (among
    positive semidefinite ones for `positive`) and `nuclear_excess`, the relative excess of this one; at depth
    2 `least_trace`, the least Tr H of an interpolator. Refuses a problem that supplies none.
    """
    if at.problem.least_norm is None:
        raise Refusal(
            "measure=least_norm: this problem supplies no solution of least norm; problem=uv, "
            "matrix_sensing, "
            "matrix_factorization and deep_factorization do"
        )
    return Estimates(at.problem.least_norm(at.w, positive))
