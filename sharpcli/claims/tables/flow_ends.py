"""Where the flow of label noise on the (u, v) model ends from many random starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpcli.theory import uv
from sharpcli.theory.convex import least_l1


def flow_ends(*, d: int, n: int, k: int, starts: int, tau: float, seed: int) -> list[dict[str, Any]]:
    """For each start, |u_j|, |v_j| log-normal around 1: `trace_over_least` = Tr H at flow time `tau` (delta =
    1) over its least among interpolators, 4 min |w|_1."""
    rng = np.random.default_rng(seed)
    Z, beta = rng.choice([-1.0, 1.0], size=(n, d)), np.zeros(d)
    beta[rng.choice(d, k, replace=False)] = rng.choice([-1.0, 1.0], k)
    y = Z @ beta
    least = 4 * np.abs(least_l1(Z, y)[0]).sum()
    rows = []
    for number in range(starts):
        u, v = np.exp(rng.normal(size=(2, d)))
        rows.append({"start": number, "trace_over_least": uv.trace(*uv.flow(u, v, Z, y, tau), Z) / least})
    return rows
