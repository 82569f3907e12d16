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

    `to_least_l1` is max_j |w - w_1|_j, w_1 the solution of basis pursuit by a linear program; `to_least_l2`
    is max_j |w - Z^+ y|_j; and `trace_over_four_l1` is the least trace over 4 |w_1|_1.
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
        w, w_1 = best.x[:d] ** 2 - best.x[d:] ** 2, least_l1(Z, y)[0]
        rows.append(
            {
                "seed": seed,
                "to_least_l1": float(np.abs(w - w_1).max()),
                "to_least_l2": float(np.abs(w - np.linalg.pinv(Z) @ y).max()),
                "trace_over_four_l1": float(best.fun / (4 * np.abs(w_1).sum())),
            }
        )
    return rows
