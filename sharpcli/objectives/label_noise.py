"""Labels redrawn at every step; Blanc et al. 2020, arXiv:1904.09080, and Li, Wang & Arora 2022, arXiv:2110.06914."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.rng import Stream
from sharpcli.surface import LossSurface

Distribution = Literal["signs", "uniform", "normal", "student"]


def label_noise(
    surface: LossSurface, w: Tensor, rng: Stream, *, delta: float, distribution: Distribution, shared: bool
) -> LossSurface:
    """y + delta_t, delta_t = delta xi: xi = +-1 for `signs`, uniform in [-1, 1] (variance 1/3), `normal` (variance 1), or
    `student` (heavy-tailed, variance 1);
    independent for every example and output, or with `shared` one xi for all of a batch.

    The limiting flow's clock is proportional to the variance. Refuses delta < 0.
    """
    if delta < 0:
        raise Refusal(f"delta={delta}: label noise has a size of at least 0")
    draw = {"signs": rng.signs, "uniform": rng.uniform, "normal": rng.normal, "student": rng.student}[distribution]
    xi = torch.from_numpy(draw(1 if shared else sum(y.numel() for _, y in surface.batches)))
    batches, at = [], 0
    for x, y in surface.batches:
        here = xi if shared else xi[at : at + y.numel()].view(y.shape)
        batches.append((x, y + delta * here.to(y)))
        at += y.numel()
    return surface.on(batches)
