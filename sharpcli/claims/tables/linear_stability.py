"""The minima at which gradient descent on 1/2 (u v - 1)^2 ends, from very many starts at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AT_MINIMUM = 1e-9  # |u v - 1| below which a start counts as converged
ROUNDING = 1e-6  # relative: a sharpness so little above 2/lr does not count as above


def linear_stability(
    *, starts: int, box: float, lrs: list[float], steps: int, seeds: list[int]
) -> list[dict[str, Any]]:
    """A row for each lr and seed, over `starts` starts uniform in [-box, box]^2: `converged`, the share of
    starts with |u v - 1| < 1e-9 after `steps` steps of gradient descent; `violators`, the share of all starts
    that converged to a minimum of sharpness lambda_1 = u^2 + v^2 > 2/lr; `flow_violators`, the share of
    starts whose gradient flow ends at such a minimum; and `largest_share`, the largest lr lambda_1 / 2 of the
    minima that starts converged to, 0 without one."""
    rows = []
    for seed in seeds:
        u_0, v_0 = np.random.default_rng(seed).uniform(-box, box, size=(2, starts))
        flow_sharpness = _sharpness_at_limit(u_0, v_0)
        for lr in lrs:
            u, v = u_0, v_0
            with np.errstate(over="ignore", invalid="ignore"):
                for _ in range(steps):
                    r = u * v - 1
                    u, v = u - lr * r * v, v - lr * r * u
                converged = np.abs(u * v - 1) < AT_MINIMUM
                violating = converged & (u * u + v * v > 2 / lr * (1 + ROUNDING))
            shares = {
                "converged": converged,
                "violators": violating,
                "flow_violators": flow_sharpness > 2 / lr,
            }
            shares_of_edge = np.where(converged, lr * (u * u + v * v) / 2, 0)
            row = {"lr": lr, "seed": seed, "largest_share": float(shares_of_edge.max())}
            rows.append(row | {name: float(x.mean()) for name, x in shares.items()})
    return rows


def _sharpness_at_limit(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """u^2 + v^2 at the limit of gradient flow from (u, v): u^2 - v^2 = c is conserved, and u v = 1 at the
    limit makes it sqrt(c^2 + 4)."""
    return np.sqrt((u * u - v * v) ** 2 + 4)
