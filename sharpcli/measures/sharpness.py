"""Sharpness: the algebraically largest eigenvalues of the Hessian of the training loss, and the smallest;
Cohen et al. 2021, arXiv:2103.00065."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point, left_out


def sharpness(at: Point, *, k: int, tol: float, max_products: int, least: bool) -> Estimates:
    """The largest eigenvalues of the Hessian H, and with `least` the smallest: by block Lanczos, and from the
    eigenpairs of the previous measurement by a generalized Davidson method, in networks of 512 parameters or
    more.

    The solver stops when every eigenvalue has converged to `tol`, or at `max_products`. An eigenvalue that
    was tracked states `tol` |lambda_1| as its error, or its residual where that is less. Float32 cannot reach
    a `tol` below 4e-6, the rounding of a product, and the errors say so. Refuses k below 1 or above D, tol <=
    0 and max_products below k.

    Columns:
        lambda_1 ... lambda_k [loss/weight^2, error _error]: the k algebraically largest eigenvalues of H,
            lambda_1 the largest: the sharpness; error: an estimate, not a bound, with what rounding can do
        lambda_i_residual [loss/weight^2]: |H v_i - lambda_i v_i| for the unit eigenvector v_i: H has an
            eigenvalue within this distance of lambda_i, a bound
        lambda_i_left_out [loss/weight^2]: on m of n examples: half the half width of a 95 % interval for what
            the others would change
        lambda_min [loss/weight^2, error _error]: with `least`, the smallest eigenvalue of H
        lambda_min_residual [loss/weight^2]: |H v - lambda_min v| for its unit eigenvector v
        lambda_min_converged [-]: with `least`, whether lambda_min_error is at most `tol` |lambda_min|, or no
            more than rounding can do, and the residual at most three times that
        sharpness_converged [-]: whether every error of lambda_1 ... lambda_k is at most `tol` |lambda_1|, and
            every residual at most three times that; with `least`, whether lambda_min has converged too
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
    converged = ritz.converged and ritz.least_converged is not False
    named = ritz.named("lambda")
    others, spent = left_out(at, "hessian", torch.stack(list(named.values())))
    by_others = {f"{name}_left_out": error for name, error in zip(named, others, strict=bool(others))}
    return Estimates(
        ritz.columns("lambda") | by_others | {"sharpness_converged": converged},
        ritz.products + spent,
        warm=ritz.remembered.saved(),
        vectors=named,
    )
