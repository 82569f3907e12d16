"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with mean pooling (Beyer et al.,
arXiv:2205.01580)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import Patches, TokenMean


def vit(shape: tuple[int, ...], outputs: int, *, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    """Patches of `patch` x `patch` pixels become tokens of `width` numbers, to which a learned vector of each
    position is added. `depth` blocks follow, each attention of `heads` heads and a GELU network with 4 width
    hidden units, both after a layer norm and beside a shortcut; then layer norm, the mean over tokens, and
    Linear. There is no dropout and no class token.

    Refuses inputs that are no images, patches that do not tile them, and heads that do not divide the width.
    """
    if width < 1 or depth < 1 or heads < 1 or width % heads:
        raise Refusal(
            f"model.width={width}, depth={depth}, heads={heads}: at least 1 each, and heads must divide the "
            f"width"
        )
    patches = Patches("vit", shape, patch, width)
    blocks = [_Block(width, heads) for _ in range(depth)]
    return nn.Sequential(
        patches,
        _Positions(patches.tokens, width),
        *blocks,
        nn.LayerNorm(width),
        TokenMean(),
        nn.Linear(width, outputs),
    )


class _Positions(nn.Module):
    """x + a learned vector for each position, x [n, tokens, width]; the vectors start from N(0, 0.02^2)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.position


class _Block(nn.Module):
    """x <- x + attention(norm(x)), then x <- x + network(norm(x)), with x [n, tokens, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [n, heads, tokens, width / heads]
            for part in self.attend(self.norm1(x)).chunk(3, 2)
        )
        x = x + self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.network(self.norm2(x))
