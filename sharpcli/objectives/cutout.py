"""Cutout: a square of every image is hidden; DeVries & Taylor 2017, arXiv:1708.04552."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface


def cutout(surface: LossSurface, w: Tensor, rng: Generator, *, size: int) -> LossSurface:
    """The loss of images [C, H, W] of which a square of `size` x `size` pixels is 0, its centre a pixel drawn
    for each image, so that it may reach over the edge.

    Refuses inputs that are no images, size < 1, and a size that hides every image as a whole, twice its side.
    """
    if size < 1 or surface.batches[0][0].ndim != 4:
        raise Refusal(
            f"objective=cutout takes images [n, C, H, W] and size >= 1; got "
            f"{list(surface.batches[0][0].shape)}, size={size}"
        )

    sides = surface.batches[0][0].shape[2:]
    if size >= 2 * max(sides):
        raise Refusal(
            f"objective.cutout.size={size}: hides all of images of {sides[0]} x {sides[1]} pixels; give "
            f"less, as {max(1, min(sides) // 2)}"
        )

    def hidden(x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        rows, columns = (
            _within(torch.randint(0, side, (n, 1), generator=rng), side, size) for side in (height, width)
        )
        square = rows[:, :, None] & columns[:, None, :]
        return x.masked_fill(square[:, None].to(x.device), 0.0)

    return surface.on([(hidden(x), y) for x, y in surface.batches])


def _within(centre: Tensor, side: int, size: int) -> Tensor:
    """Which of the `side` places lie in the interval of `size` around each centre [n, 1]: [n, side]."""
    first = centre - size // 2
    places = torch.arange(side)
    return (places >= first) & (places < first + size)
