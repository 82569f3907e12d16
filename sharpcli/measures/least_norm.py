"""The distance of a toy's solution from the solution of least norm, by a convex solver; the least trace after
Ding et al. 2024, arXiv:2209.01750."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def least_norm(at: Point, *, positive: bool) -> Estimates:
    """The least norm of an interpolator, by a convex program, and the distance of w from it.

    On problem=uv the l1 norm; on matrix_sensing, matrix_factorization and deep_factorization the nuclear norm
    of the matrix, with `positive` among positive semidefinite matrices alone. Refuses a problem that supplies
    no solution of least norm.

    Columns:
        least_l1_norm [weight^2]: uv: the least |u*u - v*v|_1 among vectors that fit (basis pursuit)
        basis_pursuit_error [-]: uv: the recovery_error of the vector of least l1 norm
        least_nuclear_norm [weight^depth]: matrix problems: the least nuclear norm among matrices that fit
        nuclear_excess [-]: matrix problems: nuclear_norm / least_nuclear_norm - 1, nuclear_norm as in `norms`
        least_norm_gap [-]: the relative duality gap of least_l1_norm or least_nuclear_norm, a bound on its
            relative error
        least_trace [loss/weight^2]: matrix problems of depth 2: the least Tr H of an interpolator
        least_trace_gap [-]: the relative duality gap of least_trace, a bound on its relative error
    """
    if at.problem.least_norm is None:
        raise Refusal(
            "measure=least_norm knows problem=uv and the matrix problems (matrix_sensing, "
            "matrix_factorization, deep_factorization); this problem supplies no solution of least norm"
        )
    return Estimates(at.problem.least_norm(at.w, positive))
