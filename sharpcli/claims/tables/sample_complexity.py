"""The number of examples from which the (u, v) model recovers a sparse vector, with label noise and without,
by the flows in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpcli.claims.tables import sparse_instance
from sharpcli.errors import Unreachable
from sharpcli.theory import uv


def sample_complexity(
    *, dimensions: list[int], k: int, seeds: list[int], tau: float, error: float
) -> list[dict[str, Any]]:
    """A row for each d and seed with the least number n of inputs in {-1, 1}^d (to within 5 %) from which w =
    u*u - v*v has |w - w*|^2 <= `error` |w*|^2, where k entries of w* are +-1 and the start is u = v = 1:
    `n_label_noise` at time `tau` of label noise's flow (delta = 1), and `n_gradient_flow` at the limit of
    gradient flow. They are d where no n below d is enough.

    The examples are the first n of one sequence for each seed, so that n is found by bisection.
    """
    rows = []
    for d in dimensions:
        for seed in seeds:
            rng = np.random.default_rng([seed, d])
            Z, w_star = sparse_instance(rng, d, d, k)
            row: dict[str, Any] = {"d": d, "seed": seed}
            for name, time in (("n_label_noise", tau), ("n_gradient_flow", 0.0)):
                row[name] = _least_n(Z, w_star, time, error)
            rows.append(row)
    return rows


def _least_n(Z: uv.Vector, w_star: uv.Vector, tau: float, error: float) -> int:
    """The least n for which the flow at `tau` on the first n rows of Z [d, d] recovers w* [d], by
    bisection."""
    too_few, enough, ones = 1, len(w_star), np.ones(len(w_star))
    while enough - too_few > max(1, too_few // 20):
        n = (too_few + enough) // 2
        try:
            u, v = uv.flow(ones, ones, Z[:n], Z[:n] @ w_star, tau)
            recovers = bool(np.sum((u * u - v * v - w_star) ** 2) <= error * np.sum(w_star**2))
        except Unreachable:
            recovers = False
        too_few, enough = (too_few, n) if recovers else (n, enough)
    return enough
