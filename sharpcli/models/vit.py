"""The Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with mean pooling (Beyer et al.,
arXiv:2205.01580)."""

from __future__ import annotations

from torch import nn

from sharpcli.models import Patches, TokenMean
from sharpcli.models.blocks import Positions, TransformerBlock, check_heads


def vit(shape: tuple[int, ...], outputs: int, *, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    """Patches of `patch` x `patch` pixels become tokens of `width` numbers, to which a learned vector of each
    position is added. `depth` blocks follow, each attention of `heads` heads and a GELU network with 4 width
    hidden units, both after a layer norm and beside a shortcut; then layer norm, the mean over tokens, and
    Linear. There is no dropout and no class token.

    Refuses inputs that are no images, patches that do not tile them, and heads that do not divide the width.
    """
    check_heads(width, depth, heads)
    patches = Patches("vit", shape, patch, width)
    blocks = [TransformerBlock(width, heads) for _ in range(depth)]
    return nn.Sequential(
        patches,
        Positions(patches.tokens, width),
        *blocks,
        nn.LayerNorm(width),
        TokenMean(),
        nn.Linear(width, outputs),
    )
