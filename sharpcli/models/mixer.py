"""The MLP-Mixer of Tolstikhin et al. 2021, arXiv:2105.01601."""

from __future__ import annotations

from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import Patches, TokenMean


def mixer(shape: tuple[int, ...], outputs: int, *, patch: int, width: int, depth: int) -> nn.Module:
    """Patches of `patch` x `patch` pixels become tokens of `width` numbers. `depth` blocks follow, each a
    GELU network over the tokens (width / 2 hidden units) and one over the numbers of a token (4 width hidden
    units), both after a layer norm and beside a shortcut; then layer norm, the mean over tokens, and Linear.
    There is no dropout.

    Refuses inputs that are no images, patches that do not tile them, a width below 2 and a depth below 1.
    """
    if width < 2 or depth < 1:
        raise Refusal(f"model.width={width}, depth={depth}: at least 2 and 1")
    patches = Patches("mixer", shape, patch, width)
    blocks = [_Block(patches.tokens, width) for _ in range(depth)]
    return nn.Sequential(patches, *blocks, nn.LayerNorm(width), TokenMean(), nn.Linear(width, outputs))


class _Block(nn.Module):
    """x <- x + tokens(norm(x)^T)^T, then x <- x + channels(norm(x)), with x [n, tokens, width]."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, width // 2), nn.GELU(), nn.Linear(width // 2, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))
