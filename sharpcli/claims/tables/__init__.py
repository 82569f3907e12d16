"""Tables: rows that claims judge and no training run has, from closed forms over many instances, or computed
from the networks that runs have trained. A part is a function `(*, ...) -> rows` or, of a table with `of:
<part>` in the claim's yaml, `(runs, *, ...) -> rows`; its rows are kept on disk. Imports no torch at its
start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def sparse_instance(rng: np.random.Generator, n: int, d: int, k: int) -> tuple[Array, Array]:
    """Inputs Z [n, d] with entries +-1, and beta [d] with k entries +-1 at random places and zeros else."""
    Z, beta = rng.choice([-1.0, 1.0], size=(n, d)), np.zeros(d)
    beta[rng.choice(d, k, replace=False)] = rng.choice([-1.0, 1.0], k)
    return Z, beta
