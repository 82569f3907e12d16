"""The usual augmentation of CIFAR-10: a random crop of the padded image and a random horizontal flip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface


def crop_flip(surface: LossSurface, w: Tensor, rng: Generator, *, pad: int) -> LossSurface:
    """The loss of moved images: each image [C, H, W] is padded with `pad` zeros on every side, cropped to [C,
    H, W] at a random place, and flipped from left to right with probability 1/2.

    Refuses inputs that are no images, and pad < 0.
    """
    if pad < 0 or surface.batches[0][0].ndim != 4:
        raise Refusal(
            f"objective=crop_flip takes images [n, C, H, W] and pad >= 0; got "
            f"{list(surface.batches[0][0].shape)}, pad={pad}"
        )

    def augmented(x: Tensor) -> Tensor:
        """The moved images of a batch [n, C, H, W]."""
        n, _, height, width = x.shape
        first_row, first_column = (torch.randint(0, 2 * pad + 1, (n, 1), generator=rng) for _ in range(2))
        flipped = torch.randint(0, 2, (n, 1), generator=rng).bool()
        rows = first_row + torch.arange(height)
        columns = torch.arange(width).expand(n, -1)
        columns = first_column + torch.where(flipped, width - 1 - columns, columns)
        images = torch.arange(n)[:, None, None].to(x.device)
        is_channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        cropped = padded[images, rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)]
        moved = cropped.permute(0, 3, 1, 2)
        return moved if is_channels_last else moved.contiguous()

    return surface.on([(augmented(x), y) for x, y in surface.batches])
