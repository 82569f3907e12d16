"""The points at which the limiting flow of label noise on the (u, v) model ends, from many random starts."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpcli.claims.tables import sparse_instance
from sharpcli.theory import uv
from sharpcli.theory.convex import least_l1


def flow_ends(*, d: int, n: int, k: int, starts: int, tau: float, seed: int) -> list[dict[str, Any]]:
    """A row for each of `starts` starts, u_j and v_j log-normal around 1, on one instance of `seed` with n
    inputs in {-1, 1}^d and k entries of the truth: `trace_over_least` = Tr H at time `tau` of the flow (delta
    = 1) over the least Tr H of an interpolator, 4 min |w|_1."""
    rng = np.random.default_rng(seed)
    Z, beta = sparse_instance(rng, n, d, k)
    y = Z @ beta
    least_trace = 4 * np.abs(least_l1(Z, y)[0]).sum()
    rows = []
    for start in range(starts):
        u, v = np.exp(rng.normal(size=(2, d)))
        trace = uv.trace(*uv.flow(u, v, Z, y, tau), Z)
        rows.append({"start": start, "trace_over_least": trace / least_trace})
    return rows
