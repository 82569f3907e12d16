"""Running means of the gradient and of its square: what Adam and AdamW share."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.optimizers import State


def initial(w: Tensor) -> State:
    """(m [D], v [D], t), all 0."""
    return torch.zeros_like(w), torch.zeros_like(w), torch.zeros((), dtype=torch.float64, device=w.device)


def updated(state: State, g: Tensor, beta1: float, beta2: float) -> State:
    """m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, t <- t + 1."""
    m, v, t = state
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g, t + 1


def divisor(state: State, beta1: float, beta2: float, eps: float) -> Tensor:
    """P = (1 - beta1^t) (sqrt(v^) + eps) [D] with v^ = v / (1 - beta2^t), which is 0 before the first step: m
    / P is m^ / (sqrt(v^) + eps) with m^ = m / (1 - beta1^t)."""
    _, v, t = state
    corrected = v / (1 - beta2**t).clamp_min(torch.finfo(torch.float64).tiny).to(v)
    return (1 - beta1**t).to(v) * (corrected.sqrt() + eps)
