"""Noise in the weights at which the gradient is taken: the anticorrelated perturbed gradient descent of
Orvieto et al. 2022, arXiv:2202.02831."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def weight_noise(surface: LossSurface, w: Tensor, rng: Stream, *, sigma: float) -> LossSurface:
    """L(w + sigma xi) with xi ~ N(0, I) [D] drawn once a step, on average L + sigma^2/2 Tr H to second order
    in sigma. Gradient descent on it moves z_t = w_t + sigma xi_t by z_(t+1) = z_t - lr grad L(z_t) + sigma
    (xi_(t+1) - xi_t), whose noise is anticorrelated from one step to the next. Refuses sigma < 0."""
    if sigma < 0:
        raise Refusal(f"sigma={sigma}: noise has a size of at least 0")
    xi = sigma * torch.from_numpy(rng.normal(len(w))).to(w)
    return surface.through(lambda at: at + xi)
