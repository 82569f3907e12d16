"""The Gauss-Newton matrix (Schraudolph 2002), for cross-entropy the Fisher: its largest eigenvalues and its
trace."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.linalg import trace as traces
from sharpcli.measures import Estimates, Point


def gauss_newton(at: Point, *, k: int, tol: float, rtol: float, max_products: int) -> Estimates:
    """`ggn_lambda_1` ... `ggn_lambda_k` and `ggn_trace` of G = (1/n) sum_i J_i^T (d^2 loss_i / d f_i^2) J_i,
    which is the Hessian where the residuals vanish.

    Eigenvalues as in `sharpness`, to `tol` of the largest; the trace by Hutch++, to a standard error of
    `rtol`, exact where D <= max_products. Refuses k out of range, tol or rtol <= 0.
    """
    D = len(at.w)
    if not 1 <= k <= D or max_products < max(k, 8):
        raise Refusal(
            f"measure.gauss_newton.k={k}: take 1 to {D} eigenvalues, and max_products of at least that and 8"
        )
    if not (tol > 0 and rtol > 0):
        raise Refusal(f"measure.gauss_newton: tol={tol} and rtol={rtol}; both above 0")
    ritz = at.curvature.eigenpairs("gauss_newton", k, tol, max_products, at.warm)
    ggn = at.curvature.matvec("gauss_newton")
    its_trace = traces.estimate("hutchpp", ggn, at.w, at.rng, rtol, max_products, at.curvature.tell)
    values = ritz.columns("ggn_lambda") | {"ggn_trace": its_trace.value, "ggn_trace_stderr": its_trace.stderr}
    values["gauss_newton_converged"] = ritz.converged and its_trace.converged
    return Estimates(values, ritz.products + its_trace.products, warm=ritz.vectors)
