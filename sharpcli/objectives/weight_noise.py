"""Noise in the weights: anticorrelated perturbed gradient descent, Orvieto et al. 2022, arXiv:2202.02831."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def weight_noise(surface: LossSurface, w: Tensor, rng: Stream, *, sigma: float) -> LossSurface:
    """L(w + sigma xi), xi ~ N(0, I) drawn once a step: on average L + sigma^2/2 Tr H. In z_t = w_t + sigma
    xi_t gradient descent on it is z_{t+1} = z_t - lr grad L(z_t) + sigma (xi_{t+1} - xi_t): noise that is
    anticorrelated from step to step. Refuses sigma < 0."""
    if sigma < 0:
        raise Refusal(f"sigma={sigma}: noise has a size of at least 0")
    xi = sigma * torch.from_numpy(rng.normal(len(w))).to(w)
    return surface.through(lambda at: at + xi)
