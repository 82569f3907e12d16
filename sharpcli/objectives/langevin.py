"""Gradient noise whose covariance does not come from the loss, to compare with label noise; HaoChen et al.
2021, arXiv:2006.08680."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def langevin(
    surface: LossSurface, w: Tensor, rng: Stream, *, sigma: float, shape: Literal["spherical", "weights"]
) -> LossSurface:
    """L(w) + sigma xi.w, whose gradient is grad L + sigma xi, with xi [D] drawn once a step: N(0, I) for
    shape `spherical`, and N(0, 1) times |w_i| of the weight before the step for shape `weights`. Refuses
    sigma < 0."""
    if sigma < 0:
        raise Refusal(f"sigma={sigma}: noise has a size of at least 0")
    xi = sigma * torch.from_numpy(rng.normal(len(w))).to(w)
    if shape == "weights":
        xi = xi * w.abs()
    return surface.plus(lambda w: xi @ w)
