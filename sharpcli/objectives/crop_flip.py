"""The usual augmentation of CIFAR-10: a random crop of the padded image and a random horizontal flip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface


def crop_flip(surface: LossSurface, w: Tensor, rng: Generator, *, pad: int) -> LossSurface:
    """Each image [C, H, W] is padded by `pad` zeros, cropped back at a random place and flipped with
    probability 1/2.

    Refuses inputs that are no images, and pad < 0.
    """
    if pad < 0 or surface.batches[0][0].ndim != 4:
        raise Refusal(
            f"objective=crop_flip takes images [n, C, H, W] and pad >= 0; got "
            f"{list(surface.batches[0][0].shape)}, pad={pad}"
        )

    def moved(x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        down, right = (torch.randint(0, 2 * pad + 1, (n, 1), generator=rng) for _ in range(2))
        flip = torch.randint(0, 2, (n, 1), generator=rng).bool()
        rows = down + torch.arange(height)
        columns = torch.arange(width).expand(n, -1)
        columns = right + torch.where(flip, width - 1 - columns, columns)
        image = torch.arange(n)[:, None, None].to(x.device)
        padded = F.pad(x, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
        picked = padded[image, rows[:, :, None].to(x.device), columns[:, None, :].to(x.device)]
        return picked.permute(0, 3, 1, 2).contiguous()

    return surface.on([(moved(x), y) for x, y in surface.batches])
