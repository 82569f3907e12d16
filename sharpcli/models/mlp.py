"""A fully connected network; with two hidden layers of 200 tanh units it is the fc-tanh of Cohen et al. 2021,
arXiv:2103.00065."""

from __future__ import annotations

from math import prod

from torch import nn

from sharpcli.errors import Refusal
from sharpcli.models import ACTIVATIONS, Activation


def mlp(shape: tuple[int, ...], outputs: int, *, widths: list[int], activation: Activation) -> nn.Module:
    """Flatten, then Linear and the activation for each of the hidden `widths`, then Linear to `outputs`;
    weights start as PyTorch initializes them.

    It maps [n, *shape] to [n, outputs]; `widths=[]` is a linear model. Refuses a width below 1.
    """
    if any(width < 1 for width in widths):
        raise Refusal(f"model.widths={list(widths)}: every hidden layer needs at least 1 unit")
    layers: list[nn.Module] = [nn.Flatten()]
    size = prod(shape)
    for width in widths:
        layers += [nn.Linear(size, width), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))
