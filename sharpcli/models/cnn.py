"""A plain convolutional network of convolutions, activations and 2x2 pooling, as in Cohen et al. 2021,
arXiv:2103.00065."""

from __future__ import annotations

from typing import Literal

from torch import nn

from sharpcli.errors import Refusal
from sharpcli.models import ACTIVATIONS, Activation, image


def cnn(
    shape: tuple[int, ...],
    outputs: int,
    *,
    widths: list[int],
    activation: Activation,
    pool: Literal["average", "max"],
) -> nn.Module:
    """For each of `widths` a 3x3 convolution to that many channels, the activation and 2x2 pooling; then
    Linear to `outputs`.

    The inputs are images [n, channels, height, width]. Refuses inputs that are no images, a width below 1,
    and more poolings than the image can be halved.
    """
    channels, rows, columns = image("cnn", shape)
    if any(width < 1 for width in widths):
        raise Refusal(f"model.widths={list(widths)}: every layer needs at least 1 channel")
    if min(rows, columns) < 2 ** len(widths):
        raise Refusal(
            f"model.widths={list(widths)}: {len(widths)} poolings halve a {rows}x{columns} image away; "
            f"give fewer"
        )
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.AvgPool2d(2) if pool == "average" else nn.MaxPool2d(2),
        ]
        channels, rows, columns = width, rows // 2, columns // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * rows * columns, outputs))
