"""A plain convolutional network, as in Cohen et al. 2021, arXiv:2103.00065: convolution, activation, 2x2
pooling."""

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
    """For each width a 3x3 convolution to that many channels, activation and 2x2 pooling; then Linear to
    `outputs`.

    Images [n, channels, height, width] only: refuses another shape, a width below 1, and more poolings than
    the image can be halved.
    """
    channels, height, width_ = image("cnn", shape)
    if any(width < 1 for width in widths):
        raise Refusal(f"model.widths={list(widths)}: every layer needs at least 1 channel")
    if min(height, width_) < 2 ** len(widths):
        raise Refusal(
            f"model.widths={list(widths)}: {len(widths)} poolings halve a {height}x{width_} image away; "
            f"give fewer"
        )
    layers: list[nn.Module] = []
    for width in widths:
        layers += [
            nn.Conv2d(channels, width, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.AvgPool2d(2) if pool == "average" else nn.MaxPool2d(2),
        ]
        channels, height, width_ = width, height // 2, width_ // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width_, outputs))
