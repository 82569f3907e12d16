"""Networks. A part is a function `(shape, outputs, *, ...) -> Module`: one input's shape, the number of
outputs."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from sharpcli.errors import Refusal

Activation = Literal["tanh", "relu", "gelu", "silu", "softplus", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


def image(model: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width). Refuses, in the name of `model`, inputs that are no images."""
    if len(shape) != 3:
        raise Refusal(
            f"model={model} takes images (channels, height, width); these inputs are {list(shape)}: use "
            f"model=mlp"
        )
    return shape


class Patches(nn.Module):
    """[n, channels, height, width] -> [n, tokens, size]: the patches of `patch` x `patch` pixels, row by row,
    each through one Linear. Refuses, in the name of `model`, inputs that are no images, and patches that do
    not tile them."""

    def __init__(self, model: str, shape: tuple[int, ...], patch: int, size: int) -> None:
        super().__init__()
        channels, height, width = image(model, shape)
        if patch < 1 or height % patch or width % patch:
            raise Refusal(
                f"model.patch={patch}: patches must tile the {height}x{width} image; give a divisor of both"
            )
        self.patch, self.tokens = patch, (height // patch) * (width // patch)
        self.embed = nn.Linear(channels * patch**2, size)

    def forward(self, x: Tensor) -> Tensor:
        """The tokens of a batch of images."""
        tiles = x.unflatten(3, (-1, self.patch)).unflatten(
            2, (-1, self.patch)
        )  # [n, c, rows, patch, columns, patch]
        return self.embed(tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class TokenMean(nn.Module):
    """[n, tokens, size] -> [n, size]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over tokens."""
        return x.mean(1)
