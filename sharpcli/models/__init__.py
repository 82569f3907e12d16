"""Networks. A part is a function `(shape, outputs, *, ...) -> Module` of the shape of an input, without the
batch's dimension, and the number of outputs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

import torch
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
    """The `shape` of an image, (channels, height, width). Refuses, in the name of `model`, another number of
    dimensions."""
    if len(shape) != 3:
        raise Refusal(
            f"model={model} takes images (channels, height, width); these inputs are {list(shape)}: use "
            f"model=mlp"
        )
    return shape


def check_name(name: str, names: Sequence[str], library: str) -> None:
    """Refuses a `name` that is not among the `names` of a library's networks, and says which are close to
    it."""
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, n=3)) or "none"
        raise Refusal(f"model.name={name}: {library} has no such network; close: {close}")


def check_images(net: nn.Module, shape: tuple[int, ...], name: str, takes: str) -> None:
    """Refuses images that a library's network `name` does not take, by a pass over two black images, and says
    for which it was made: `takes`."""
    modes = {part: part.training for part in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, AssertionError, IndexError) as problem:
        size = "x".join(map(str, shape))
        reason = str(problem).split("\n", maxsplit=1)[0][:160]
        raise Refusal(
            f"model.name={name} does not take images of {size} ({reason}): it takes {takes}"
        ) from None
    finally:
        for part, mode in modes.items():
            part.training = mode


class Patches(nn.Module):
    """[n, channels, height, width] -> [n, tokens, size]: an image is cut, row by row, into patches of `patch`
    x `patch` pixels, its tokens, and one Linear maps each to `size` numbers. Refuses, in the name of `model`,
    inputs that are no images, and patches that do not tile them."""

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
        patch_columns = x.unflatten(3, (-1, self.patch))
        patches = patch_columns.unflatten(2, (-1, self.patch))  # [n, channels, rows, patch, columns, patch]
        return self.embed(patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2))


class TokenMean(nn.Module):
    """[n, tokens, size] -> [n, size], the mean over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the tokens of a batch."""
        return x.mean(1)
