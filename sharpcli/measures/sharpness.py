"""Sharpness: the algebraically largest eigenvalues of the Hessian of the training loss, and the smallest."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def sharpness(at: Point, *, k: int, tol: float, max_products: int, least: bool) -> Estimates:
    """`lambda_1` >= ... >= `lambda_k` of H by warm-started block Lanczos (Cohen et al. 2021), and
    `lambda_min` for `least`.

    `lambda_i_residual` = |H v - lambda v|: an eigenvalue lies within. `lambda_i_error` is the estimated error
    of the value, which is what `tol` (relative to lambda_1) asks for; `sharpness_converged` is false where
    `max_products` did not reach it. Float32 cannot do better than about 1e-6. Refuses k below 1 or above D,
    and tol <= 0.
    """
    if not 1 <= k <= len(at.w):
        raise Refusal(
            f"measure.sharpness.k={k}: the model has {len(at.w)} parameters; take 1 to {len(at.w)} "
            f"eigenvalues"
        )
    if not tol > 0 or max_products < k:
        raise Refusal(
            f"measure.sharpness: tol={tol} and max_products={max_products}; tol above 0, max_products at "
            f"least k={k}"
        )
    ritz = at.curvature.eigenpairs("hessian", k, tol, max_products, at.warm, least)
    return Estimates(
        ritz.columns("lambda") | {"sharpness_converged": ritz.converged}, ritz.products, warm=ritz.vectors
    )
