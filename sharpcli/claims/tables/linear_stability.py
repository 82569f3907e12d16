"""Where gradient descent on 1/2 (u v - 1)^2 ends from very many starts at once."""

from __future__ import annotations

from typing import Any

import numpy as np


def linear_stability(
    *, starts: int, box: float, lrs: list[float], steps: int, seeds: list[int]
) -> list[dict[str, Any]]:
    """For each lr and seed, over `starts` starts uniform in [-box, box]^2: `converged`, the share with |u v -
    1| < 1e-9 after `steps` steps, `violators`, the share of all starts that converged to a minimum with
    lambda_1 = u^2 + v^2 > 2/lr, and `flow_violators`, the share whose gradient flow does."""
    rows = []
    for seed in seeds:
        start = np.random.default_rng(seed).uniform(-box, box, size=(2, starts))
        flow = _flow(*start)
        for lr in lrs:
            u, v = start.copy()
            with np.errstate(over="ignore", invalid="ignore"):
                for _ in range(steps):
                    r = u * v - 1
                    u, v = u - lr * r * v, v - lr * r * u
                converged = np.abs(u * v - 1) < 1e-9
                sharp = converged & (u * u + v * v > 2 / lr * (1 + 1e-6))
            row = {
                "lr": lr,
                "seed": seed,
                "converged": float(converged.mean()),
                "violators": float(sharp.mean()),
            }
            rows.append(row | {"flow_violators": float((flow > 2 / lr).mean())})
    return rows


def _flow(u: Any, v: Any) -> Any:
    """u^2 + v^2 where gradient flow ends: u^2 - v^2 = c is conserved, and u v = 1 gives sqrt(c^2 + 4)."""
    return np.sqrt((u * u - v * v) ** 2 + 4)
