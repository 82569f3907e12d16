"""Hutchinson's trace estimator (Hutchinson 1989)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sharpcli.linalg.lanczos import Matvec

BLOCK = 4  # probes multiplied at once: more saves little and costs memory


def trace(matvec: Matvec, like: Tensor, probes: int, rng: Generator) -> tuple[float, float]:
    """The mean of z.Az over `probes` vectors z of independent signs, and the standard error of that mean.

    `matvec` takes and returns rows [m, D]; `like` [D] gives D, dtype and device. Each z.Az has mean Tr A and variance
    2 sum_{i != j} A_ij^2.
    """
    samples = []
    for first in range(0, probes, BLOCK):
        shape = (min(BLOCK, probes - first), len(like))
        Z = torch.randint(0, 2, shape, generator=rng).to(like) * 2 - 1
        samples.append((Z * matvec(Z)).double().sum(1))
    found = torch.cat(samples)
    return float(found.mean()), float(found.std() / probes**0.5)
