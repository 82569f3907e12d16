"""The interpolator of least trace of the (u, v) model, by a constrained minimizer that knows nothing of the
theory."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

from sharpcli.claims.tables import sparse_instance
from sharpcli.theory.convex import least_l1

FITS = 1e-6  # the largest residual of a result that counts as an interpolator


def min_trace(*, d: int, n: int, k: int, seeds: list[int], starts: int) -> list[dict[str, Any]]:
    """A row for each seed's instance of n inputs in {-1, 1}^d with k entries of the truth. SLSQP minimizes
    the trace 4 (|u|^2 + |v|^2) over x = (u, v) subject to Z w = y, w = u*u - v*v [d], from `starts` random
    starts, of which the best interpolator counts.

    With |w_1|_1 the least l1 norm, by a linear program, `l1_excess` is |w|_1 / |w_1|_1 - 1, and
    `l1_excess_of_l2` the same of Z^+ y; `trace_over_four_l1` is the least trace over 4 |w_1|_1. They are
    norms and no distances, since inputs of +-1 can leave several w of the least norm.
    """
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        Z, beta = sparse_instance(rng, n, d, k)
        y = Z @ beta

        def residual(x: Any, Z: Any = Z, y: Any = y) -> Any:
            return Z @ (x[:d] ** 2 - x[d:] ** 2) - y

        def jacobian(x: Any, Z: Any = Z) -> Any:
            return np.hstack([2 * Z * x[:d], -2 * Z * x[d:]])

        interpolates = {"type": "eq", "fun": residual, "jac": jacobian}
        options = {"maxiter": 2000, "ftol": 1e-14}
        results = [
            minimize(
                lambda x: 4 * x @ x,
                rng.normal(size=2 * d),
                jac=lambda x: 8 * x,
                constraints=interpolates,
                options=options,
            )
            for _ in range(starts)
        ]
        interpolators = (result for result in results if np.abs(residual(result.x)).max() < FITS)
        best = min(interpolators, key=lambda result: result.fun)
        w, least = best.x[:d] ** 2 - best.x[d:] ** 2, float(np.abs(least_l1(Z, y)[0]).sum())
        rows.append(
            {
                "seed": seed,
                "l1_excess": float(np.abs(w).sum() / least - 1),
                "l1_excess_of_l2": float(np.abs(np.linalg.pinv(Z) @ y).sum() / least - 1),
                "trace_over_four_l1": float(best.fun / (4 * least)),
            }
        )
    return rows
