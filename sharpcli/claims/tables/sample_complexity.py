"""How many examples the (u, v) model needs to recover a sparse vector, with label noise and without: the
closed-form flows."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharpcli.errors import Unreachable
from sharpcli.theory import uv


def sample_complexity(
    *, dimensions: list[int], k: int, seeds: list[int], tau: float, error: float
) -> list[dict[str, Any]]:
    """For each d and seed the least n (to within 5 %) from which on the limit recovers |w - w*|^2 <= `error`
    |w*|^2, k entries of w* being +-1: `n_label_noise` at flow time `tau` (delta = 1), `n_gradient_flow` at
    Phi(1, ..., 1); d where no n below d is enough. Monotone by bisection: each seed's examples are the first
    n of one sequence."""
    rows = []
    for d in dimensions:
        for seed in seeds:
            rng = np.random.default_rng([seed, d])
            Z, beta = rng.choice([-1.0, 1.0], size=(d, d)), np.zeros(d)
            beta[rng.choice(d, k, replace=False)] = rng.choice([-1.0, 1.0], k)
            row: dict[str, Any] = {"d": d, "seed": seed}
            for name, at in (("n_label_noise", tau), ("n_gradient_flow", 0.0)):
                row[name] = _least(Z, beta, at, error)
            rows.append(row)
    return rows


def _least(Z: uv.Vector, beta: uv.Vector, tau: float, error: float) -> int:
    low, high, ones = 1, len(beta), np.ones(len(beta))
    while high - low > max(1, low // 20):
        n = (low + high) // 2
        try:
            u, v = uv.flow(ones, ones, Z[:n], Z[:n] @ beta, tau)
            fits = bool(np.sum((u * u - v * v - beta) ** 2) <= error * np.sum(beta**2))
        except Unreachable:
            fits = False
        low, high = (low, n) if fits else (n, high)
    return high
