"""Labels redrawn at every step; Blanc et al. 2020, arXiv:1904.09080, and Li, Wang & Arora 2022, arXiv:2110.06914."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.surface import LossSurface


def label_noise(surface: LossSurface, w: Tensor, rng: Generator, *, delta: float) -> LossSurface:
    """y + delta_t with delta_t = +-delta, independent for every example and output. Refuses delta < 0."""
    if delta < 0:
        raise Refusal(f"delta={delta}: label noise has a size of at least 0")

    def noisy(y: Tensor) -> Tensor:
        signs = torch.randint(0, 2, y.shape, generator=rng).to(y) * 2 - 1
        return y + delta * signs

    return surface.on([(x, noisy(y)) for x, y in surface.batches])
