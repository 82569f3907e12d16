"""The Gauss-Newton matrix, for cross-entropy the Fisher matrix: its largest eigenvalues and its trace;
Schraudolph 2002."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point, left_out


def gauss_newton(at: Point, *, k: int, tol: float, rtol: float, max_products: int) -> Estimates:
    """The largest eigenvalues and the trace of the Gauss-Newton matrix G = (1/n) sum_i J_i^T (d^2 loss_i / d
    f_i^2) J_i, f_i [C] the outputs of example i and J_i [C, D] their Jacobian: the Hessian where the
    residuals vanish.

    Eigenvalues as in `sharpness`, to `tol` of the largest; the trace by Hutch++, to a relative error of
    `rtol`, exact up to rounding where D <= max_products. Refuses k out of range, tol and rtol <= 0, and
    max_products below k or 8.

    Columns:
        ggn_lambda_1 ... ggn_lambda_k [loss/weight^2, error _error]: the k largest eigenvalues of G
        ggn_lambda_i_residual [loss/weight^2]: |G v_i - lambda_i v_i| for the unit eigenvector v_i: G has an
            eigenvalue within this distance of ggn_lambda_i
        ggn_lambda_i_left_out [loss/weight^2]: on m of n examples: half the half width of a 95 % interval for
            what the others would change
        ggn_trace [loss/weight^2, error _stderr]: Tr G; error: ggn_trace ± 2 ggn_trace_stderr covers it in at
            least 95 % of cases
        gauss_newton_converged [-]: whether every eigenvalue reached `tol` and ggn_trace `rtol`
    """
    D = len(at.w)
    if not 1 <= k <= D or max_products < max(k, 8):
        raise Refusal(
            f"measure.gauss_newton.k={k}: take 1 to {D} eigenvalues, and max_products of at least that and 8"
        )
    if not (tol > 0 and rtol > 0):
        raise Refusal(f"measure.gauss_newton: tol={tol} and rtol={rtol}; both above 0")
    ritz = at.curvature.eigenpairs("gauss_newton", k, tol, max_products, at.warm)
    trace = at.curvature.trace("gauss_newton", "hutchpp", at.rng, rtol, max_products)
    values = ritz.columns("ggn_lambda") | {"ggn_trace": trace.value, "ggn_trace_stderr": trace.stderr}
    values["gauss_newton_converged"] = ritz.converged and trace.converged
    vectors = ritz.named("ggn_lambda")
    others, spent = left_out(at, "gauss_newton", torch.stack(list(vectors.values())))
    values |= {f"{name}_left_out": error for name, error in zip(vectors, others, strict=bool(others))}
    return Estimates(
        values, ritz.products + trace.products + spent, warm=ritz.remembered.saved(), vectors=vectors
    )
