"""A small GPT-2 (Radford et al. 2019), for characters or tokens."""

from __future__ import annotations

import math

from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models.blocks import Positions, TransformerBlock, check_heads

SPREAD = 0.02  # standard deviation of the initial weights


def gpt(shape: tuple[int, ...], outputs: int, *, width: int, depth: int, heads: int) -> nn.Module:
    """Tokens [n, T] go in, logits [n, T, C] of the token after each come out: an embedding of `width` numbers
    and a learned vector of each position, `depth` blocks of causal attention of `heads` heads and a GELU
    network with 4 width hidden units, each after a layer norm and beside a shortcut; layer norm, and the
    transposed embedding, whose weights are the same. There is no dropout.

    Weights start from N(0, 0.02^2), those before a shortcut's sum from N(0, 0.02^2 / (2 depth)), biases from
    0. Refuses inputs that are no tokens, and heads that do not divide the width.
    """
    if len(shape) != 1:
        raise Refusal(f"model=gpt takes tokens [n, T], and these inputs are {list(shape)}; use data=tokens")
    check_heads(width, depth, heads)
    return _GPT(shape[0], outputs, width, depth, heads)


class _GPT(nn.Module):
    def __init__(self, tokens: int, outputs: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(outputs, width), Positions(tokens, width)
        blocks = [TransformerBlock(width, heads, causal=True) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=SPREAD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for block in blocks:
            for layer in block.before_sums():
                nn.init.normal_(layer.weight, std=SPREAD / math.sqrt(2 * depth))
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.positions(self.embed(x.long())))))
