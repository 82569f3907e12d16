"""The CIFAR ResNets (20, 32, 56, ... layers) of He et al. 2016, arXiv:1512.03385, section 4.2."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import image
from sharpcli.models.blocks import Norm, check_width, convolution, initialized, normalization


def resnet(
    shape: tuple[int, ...], outputs: int, *, depth: int, width: int, norm: Norm, groups: int, skip: bool
) -> nn.Module:
    """A 3x3 convolution; three stages of (depth - 2) / 6 blocks with `width`, 2 `width` and 4 `width`
    channels; average pooling and Linear. The shortcuts have no parameters (He et al., option A); `skip=false`
    leaves them out.

    `norm=group` normalizes `groups` groups of channels, `layer` all of them together; `batch` normalizes over
    the batch, as problem.batchnorm says; `none` adds a bias instead. Convolutions start from N(0, 2 /
    fan_out). Refuses a depth that is not 6 m + 2, inputs that are no images, and groups that do not divide
    the width.
    """
    if depth < 8 or (depth - 2) % 6:
        raise Refusal(f"model.depth={depth}: a CIFAR ResNet has 6 m + 2 layers; try 8, 14, 20, 32, 44 or 56")
    check_width(width, groups, norm)
    image_channels, _, _ = image("resnet", shape)
    first = convolution(image_channels, width, 3, 1, norm)
    layers: list[nn.Module] = [first, normalization(norm, groups, width), nn.ReLU()]
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            layers.append(_Block(channels, width * 2**stage, stride, norm, groups, skip))
            channels = width * 2**stage
    return initialized(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))
    )


class _Block(nn.Module):
    """[n, inputs, height, width] -> [n, outputs, height / stride, width / stride]: relu(shortcut(x) +
    norm(conv(relu(norm(conv(x)))))), where the shortcut takes every `stride`-th pixel and pads the new
    channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, groups: int, skip: bool) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride, norm)
        self.norm1 = normalization(norm, groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1, norm)
        self.norm2 = normalization(norm, groups, outputs)
        self.stride, self.new_channels, self.skip = stride, outputs - inputs, skip

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        if self.skip:
            y = y + F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(y)
