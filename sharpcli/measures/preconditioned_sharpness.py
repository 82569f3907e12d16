"""Sharpness in an adaptive optimizer's own metric, Cohen et al. 2022, arXiv:2207.14484."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import Curvature
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import edge, preconditioner


def preconditioned_sharpness(at: Point, *, k: int, tol: float, max_products: int) -> Estimates:
    """`preconditioned_lambda_1` ... of P^(-1/2) H P^(-1/2), P the diagonal that the optimizer divides its
    step by, with bias correction and epsilon as it uses them, and `preconditioned_edge`, its threshold on a
    quadratic.

    An optimizer that divides by nothing has P = I. Nothing is reported before the first step, when P is 0.
    Refuses k out of range, tol <= 0, and weights without an optimizer state.
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
    stated = preconditioner(at.optimizer, at.state, at.lr)
    P, its_edge = (torch.ones_like(at.w), edge(at.optimizer, at.lr)) if stated is None else stated
    if not bool((P > 0).all()):
        return Estimates()
    root = P.rsqrt()
    surface = at.surface.through(lambda u: root * u)
    inner = Curvature(surface, at.w / root, *curvature.key, curvature.basis_bytes, curvature.tell)
    ritz = inner.eigenpairs("hessian", k, tol, max_products, at.warm)
    values = ritz.columns("preconditioned_lambda") | {"preconditioned_edge": its_edge}
    values["preconditioned_converged"] = ritz.converged
    return Estimates(values, ritz.products, warm=ritz.vectors)
