"""What several networks share: normalization layers, convolutions and their initial weights; positions and
blocks of transformers."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def check_heads(width: int, depth: int, heads: int) -> None:
    """Refuses sizes of a transformer below 1, and heads that do not divide the width."""
    if width < 1 or depth < 1 or heads < 1 or width % heads:
        raise Refusal(
            f"model.width={width}, depth={depth}, heads={heads}: at least 1 each, and heads must divide the "
            f"width"
        )


class Positions(nn.Module):
    """x + a learned vector for each position, x [n, tokens, width]; the vectors start from N(0, 0.02^2)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        """The tokens of a batch with their positions."""
        return x + self.position


class TransformerBlock(nn.Module):
    """x <- x + attention(norm(x)), then x <- x + network(norm(x)), with x [n, tokens, width]. In `causal`
    attention a token sees itself and those before it."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1 = nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def before_sums(self) -> list[nn.Linear]:
        """The layers whose outputs are added to the shortcut."""
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        return [self.project, last]

    def forward(self, x: Tensor) -> Tensor:
        """The tokens of a batch after the block."""
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [n, heads, tokens, width / heads]
            for part in self.attend(self.norm1(x)).chunk(3, 2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.network(self.norm2(x))
