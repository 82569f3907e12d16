"""What the convolutional networks share: normalization layers, convolutions and their initial weights."""

from __future__ import annotations

from typing import Literal

from torch import nn

from sharpcli.errors import Refusal

Norm = Literal["group", "batch", "layer", "none"]


def normalization(norm: Norm, groups: int, channels: int) -> nn.Module:
    """`group` normalizes `groups` groups of channels of an example, `layer` all of its channels together,
    `batch` each channel over the batch, as problem.batchnorm says; `none` is the identity."""
    if norm in ("group", "layer"):
        return nn.GroupNorm(groups if norm == "group" else 1, channels)
    return nn.BatchNorm2d(channels, track_running_stats=False) if norm == "batch" else nn.Identity()


def convolution(inputs: int, outputs: int, size: int, stride: int, norm: Norm) -> nn.Conv2d:
    """A `size` x `size` convolution that keeps the image's size but for its `stride`; with a bias where no
    normalization follows, which would take it out again."""
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=norm == "none")


def initialized(net: nn.Module) -> nn.Module:
    """The network, its convolutions drawn from N(0, 2 / fan_out): He et al. 2015, arXiv:1502.01852."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return net


def check_width(width: int, groups: int, norm: Norm) -> None:
    """Refuses a width or a number of groups below 1, and groups that do not divide the width."""
    if width < 1 or groups < 1 or (norm == "group" and width % groups):
        raise Refusal(
            f"model.width={width} and model.groups={groups}: both at least 1, and groups must divide width"
        )
