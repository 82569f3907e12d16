"""Minimizing the trace over the interpolators of the (u, v) model, by a generic constrained minimizer."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import minimize

from sharpcli.theory.convex import least_l1


def min_trace(*, d: int, n: int, k: int, seeds: list[int], starts: int) -> list[dict[str, Any]]:
    """For each seed's instance, over (u, v) from `starts` random starts by SLSQP: w = u*u - v*v at the least
    4 (|u|^2 + |v|^2) subject to Z w = y. `to_least_l1` is max |w - w_1|, w_1 the basis pursuit solution of a
    linear program, `to_least_l2` is max |w - Z^+ y|, and `trace_over_four_l1` the ratio of the two minima."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        Z, beta = rng.choice([-1.0, 1.0], size=(n, d)), np.zeros(d)
        beta[rng.choice(d, k, replace=False)] = rng.choice([-1.0, 1.0], k)
        y = Z @ beta

        def left(x: Any, Z: Any = Z, y: Any = y) -> Any:
            return Z @ (x[:d] ** 2 - x[d:] ** 2) - y

        def slope(x: Any, Z: Any = Z) -> Any:
            return np.hstack([2 * Z * x[:d], -2 * Z * x[d:]])

        fits = {"type": "eq", "fun": left, "jac": slope}
        options = {"maxiter": 2000, "ftol": 1e-14}
        tried = [
            minimize(
                lambda x: 4 * x @ x,
                rng.normal(size=2 * d),
                jac=lambda x: 8 * x,
                constraints=fits,
                options=options,
            )
            for _ in range(starts)
        ]
        best = min((one for one in tried if np.abs(left(one.x)).max() < 1e-6), key=lambda one: one.fun)
        w, (least, _) = best.x[:d] ** 2 - best.x[d:] ** 2, least_l1(Z, y)
        rows.append(
            {
                "seed": seed,
                "to_least_l1": float(np.abs(w - least).max()),
                "to_least_l2": float(np.abs(w - np.linalg.pinv(Z) @ y).max()),
                "trace_over_four_l1": float(best.fun / (4 * np.abs(least).sum())),
            }
        )
    return rows
