"""The ResNets of He et al. 2016, arXiv:1512.03385, table 1, for small images: a 3x3 convolution in place of
the 7x7 one and its pooling, as most papers on CIFAR-10 have it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import image
from sharpcli.models.blocks import Norm, check_width, convolution, initialized, normalization


def resnet18(
    shape: tuple[int, ...], outputs: int, *, blocks: list[int], width: int, norm: Norm, groups: int
) -> nn.Module:
    """A 3x3 convolution; for the i-th of the stages `blocks` as many blocks of two convolutions with `width`
    2^i channels, the later stages on half the image's side; average pooling and Linear. A shortcut between
    stages is a 1x1 convolution. With blocks [2, 2, 2, 2], width 64 and batch norm it has 11,173,962
    parameters on 3 channels and 10 classes; [3, 4, 6, 3] is ResNet-34.

    `norm` is as for model=resnet. Refuses inputs that are no images, a stage without a block, and groups that
    do not divide the width.
    """
    channels, _, _ = image("resnet18", shape)
    check_width(width, groups, norm)
    if not blocks or min(blocks) < 1:
        raise Refusal(f"model.blocks={list(blocks)}: at least one stage, each of at least 1 block")
    layers: list[nn.Module] = [
        convolution(channels, width, 3, 1, norm),
        normalization(norm, groups, width),
        nn.ReLU(),
    ]
    channels = width
    for stage, count in enumerate(blocks):
        for block in range(count):
            stride = 2 if stage and not block else 1
            layers.append(_Block(channels, width * 2**stage, stride, norm, groups))
            channels = width * 2**stage
    return initialized(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))
    )


class _Block(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), the shortcut a normalized 1x1 convolution where
    the size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, groups: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride, norm)
        self.norm1 = normalization(norm, groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1, norm)
        self.norm2 = normalization(norm, groups, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride, norm), normalization(norm, groups, outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))
