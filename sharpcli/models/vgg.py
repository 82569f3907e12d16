"""The VGG networks of Simonyan & Zisserman 2015, arXiv:1409.1556, table 1, for small images: one Linear in
place of the three."""

from __future__ import annotations

from torch import nn

from sharpcli.errors import Refusal
from sharpcli.models import image
from sharpcli.models.blocks import Norm, check_width, convolution, initialized, normalization

STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(
    shape: tuple[int, ...], outputs: int, *, depth: int, width: int, norm: Norm, groups: int
) -> nn.Module:
    """Five stages of 3x3 convolutions with `width`, 2, 4, 8 and 8 times `width` channels, as many as VGG-11,
    13, 16 or 19 has (`depth`), each stage ended by 2x2 max-pooling; then Linear. VGG-16 of width 64 has
    14,724,042 parameters with batch norm, on 3 channels and 10 classes.

    `norm` is as for model=resnet. Refuses another depth, images below 32 x 32, which five poolings halve
    away, and groups that do not divide the width.
    """
    if depth not in STAGES:
        raise Refusal(f"model.depth={depth}: possible: {', '.join(map(str, STAGES))}")
    channels, height, rows = image("vgg", shape)
    if min(height, rows) < 32:
        raise Refusal(f"model=vgg: five poolings halve a {height}x{rows} image away; give 32x32 or more")
    check_width(width, groups, norm)
    layers: list[nn.Module] = []
    for stage, count in enumerate(STAGES[depth]):
        outs = width * min(2**stage, 8)
        for _ in range(count):
            layers += [convolution(channels, outs, 3, 1, norm), normalization(norm, groups, outs), nn.ReLU()]
            channels = outs
        layers.append(nn.MaxPool2d(2))
    size = channels * (height // 32) * (rows // 32)
    return initialized(nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, outputs)))
