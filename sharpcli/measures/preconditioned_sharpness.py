"""Sharpness in an adaptive optimizer's own metric, Cohen et al. 2022, arXiv:2207.14484."""

from __future__ import annotations

from dataclasses import replace

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import Curvature
from sharpcli.linalg.accuracy import eigenvalue_rounding
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import edge, knows_metric, preconditioner


def preconditioned_sharpness(at: Point, *, k: int, tol: float, max_products: int) -> Estimates:
    """The largest eigenvalues of P^(-1/2) H P^(-1/2), P [D] the diagonal by which the optimizer divides its
    step, with bias correction and epsilon as the optimizer uses them; P = I where it states none.

    Adam and RMSProp have P = 0 before their first step, and no column at step 0. The unit 1/lr is
    loss/weight^2 for P = I, and 1/weight for Adam and RMSProp. Refuses k out of range, tol <= 0, max_products
    below k, weights without an optimizer state, and an optimizer of which P is not known.

    Columns:
        preconditioned_lambda_1 ... preconditioned_lambda_k [1/lr, error _error]: the k largest eigenvalues of
            P^(-1/2) H P^(-1/2)
        preconditioned_lambda_i_residual [1/lr]: |P^(-1/2) H P^(-1/2) v_i - lambda_i v_i| for the unit
            eigenvector v_i: an eigenvalue lies within this distance of preconditioned_lambda_i
        preconditioned_edge [1/lr, exact]: the preconditioned_lambda_1 above which the optimizer diverges on a
            quadratic; null where the optimizer states none
        preconditioned_converged [-]: whether every eigenvalue reached `tol`
    """
    D = len(at.w)
    if not 1 <= k <= D or not tol > 0 or max_products < k:
        raise Refusal(
            f"measure.preconditioned_sharpness: k={k}, tol={tol}, max_products={max_products}; k in 1 to "
            f"{D}, tol > 0"
        )
    curvature = at.curvature
    if at.state is None:
        raise Refusal(
            "measure=preconditioned_sharpness: needs the optimizer's state, so a run; a file of weights "
            "has none"
        )
    metric = preconditioner(at.optimizer, at.state, at.lr)
    if metric is None and not knows_metric(at.optimizer, at.lr):
        raise Refusal(
            f"measure=preconditioned_sharpness: optimizer={type(at.optimizer).__name__} follows no gradient "
            f"flow and states nothing that it divides its steps by; measure=sharpness is of H itself"
        )
    P, threshold = (torch.ones_like(at.w), edge(at.optimizer, at.lr)) if metric is None else metric
    if not bool((P > 0).all()):
        return Estimates()
    root = P.rsqrt()
    surface = at.surface.through(lambda u: root * u)
    preconditioned = Curvature(
        surface, at.w / root, *curvature.key, curvature.basis_bytes, curvature.tell, is_fixed=False
    )
    ritz = preconditioned.eigenpairs("hessian", k, tol, max_products, at.warm)
    # P, its root and w / root are rounded too: in float32 twice the rounding of a product was seen.
    more = 2 * eigenvalue_rounding(float(ritz.values.abs().max()), at.w)
    ritz = replace(ritz, errors=ritz.errors + more, residuals=ritz.residuals + more)
    values = ritz.columns("preconditioned_lambda") | {"preconditioned_edge": threshold}
    values["preconditioned_converged"] = ritz.converged
    return Estimates(values, ritz.products, warm=ritz.remembered.saved())
