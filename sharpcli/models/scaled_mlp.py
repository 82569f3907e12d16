"""Fully connected networks whose layers are scaled so that one learning rate, or one limit, serves every
width."""

from __future__ import annotations

from math import prod, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import ACTIVATIONS, Activation

Parametrization = Literal["ntk", "mup"]


def scaled_mlp(
    shape: tuple[int, ...],
    outputs: int,
    *,
    widths: list[int],
    activation: Activation,
    parametrization: Parametrization,
) -> nn.Module:
    """Flatten, then a layer and the activation for each of the hidden `widths`, then a layer to `outputs`. It
    maps [n, *shape] to [n, outputs]. `parametrization` says how a layer of d inputs and m outputs depends on
    its weights w [m, d] and its biases b [m], which start at 0; one learning rate serves all layers.

    | parametrization | output of a layer | weights at the start |
    |---|---|---|
    | ntk | w x / sqrt(d) + b | N(0, 1): Jacot, Gabriel & Hongler 2018, arXiv:1806.07572 |
    | mup, first layer | sqrt(m) (w x / sqrt(d) + b) | N(0, 1 / m) |
    | mup, other hidden layers | w x + sqrt(m) b | N(0, 1 / d) |
    | mup, last layer | w x / sqrt(d) + b | N(0, 1 / d) |

    The maximal update parametrization is that of Yang & Hu 2021, arXiv:2011.14522, table 1, in which the
    learning rate of gradient descent does not depend on the width: a step changes hidden units and outputs by
    as much at every width, where under `ntk` the hidden units of wide networks stand still. Refuses a width
    below 1, and a network without a hidden layer.
    """
    if not widths or any(width < 1 for width in widths):
        raise Refusal(f"model.widths={list(widths)}: at least one hidden layer, and each at least 1 unit")
    layers: list[nn.Module] = [nn.Flatten()]
    size = prod(shape)
    for number, width in enumerate(widths):
        layers += [_layer(size, width, parametrization, number == 0), ACTIVATIONS[activation]()]
        size = width
    return nn.Sequential(*layers, _layer(size, outputs, parametrization, last=True))


def _layer(
    d: int, m: int, parametrization: Parametrization, first: bool = False, last: bool = False
) -> nn.Module:
    if parametrization == "ntk":
        return Scaled(d, m, spread=1.0, of_weights=1 / sqrt(d), of_biases=1.0)
    if last:
        return Scaled(d, m, spread=1 / sqrt(d), of_weights=1 / sqrt(d), of_biases=1.0)
    if first:
        return Scaled(d, m, spread=1 / sqrt(m), of_weights=sqrt(m / d), of_biases=sqrt(m))
    return Scaled(d, m, spread=1 / sqrt(d), of_weights=1.0, of_biases=sqrt(m))


class Scaled(nn.Module):
    """x [n, d] -> of_weights w x + of_biases b [n, m], w [m, d] from N(0, spread^2) and b [m] from 0. It is
    no nn.Linear: what a norm says of a Linear's weights does not hold for w."""

    def __init__(self, d: int, m: int, *, spread: float, of_weights: float, of_biases: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(spread * torch.randn(m, d))
        self.bias = nn.Parameter(torch.zeros(m))
        self.of_weights, self.of_biases = of_weights, of_biases

    def forward(self, x: Tensor) -> Tensor:
        """The outputs of a batch."""
        return F.linear(x, self.of_weights * self.weight, self.of_biases * self.bias)
