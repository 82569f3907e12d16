"""Sharpness: the algebraically largest eigenvalues of the Hessian of the training loss."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.linalg.lanczos import largest
from sharpcli.measures import Estimates, Point


def sharpness(at: Point, *, k: int, tol: float, max_products: int) -> Estimates:
    """`lambda_1` >= ... >= `lambda_k` of H by warm-started block Lanczos.

    `lambda_i_residual` = |H v - lambda v|: an eigenvalue lies within. `lambda_i_error` is the estimated error of the
    value, which is what `tol` (relative to lambda_1) asks for; `sharpness_converged` is false where `max_products`
    did not reach it. Float32 cannot do better than about 1e-6. Refuses k below 1 or above D, and tol <= 0.
    """
    D = len(at.w)
    if not 1 <= k <= D:
        raise Refusal(f"measure.sharpness.k={k}: the model has {D} parameters; take 1 to {D} eigenvalues")
    if not tol > 0 or max_products < k:
        raise Refusal(f"measure.sharpness: tol={tol} and max_products={max_products}; tol above 0, max_products at least k={k}")
    warm = at.w.new_empty(0, D) if at.warm is None else at.warm
    fresh = torch.randn(max(k - len(warm), 0), D, generator=at.rng, dtype=torch.float64)
    start = torch.cat([warm, fresh.to(at.w)])
    ritz = largest(at.surface.linearize(at.w).hvp, start, k, tol, max_products, slack=1.0 if at.warm is None else 10.0)
    values: dict[str, float | bool] = {f"lambda_{i + 1}": float(x) for i, x in enumerate(ritz.values)}
    for name, errors in (("residual", ritz.residuals), ("error", ritz.errors)):
        values |= {f"lambda_{i + 1}_{name}": float(x) for i, x in enumerate(errors)}
    return Estimates(values | {"sharpness_converged": ritz.converged}, products=ritz.products, warm=ritz.vectors)
