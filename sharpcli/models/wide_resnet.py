"""Wide residual networks, Zagoruyko & Komodakis 2016, arXiv:1605.07146, without dropout."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import image
from sharpcli.models.blocks import Norm, check_width, convolution, initialized, normalization


def wide_resnet(
    shape: tuple[int, ...], outputs: int, *, depth: int, widen: int, norm: Norm, groups: int
) -> nn.Module:
    """WRN-depth-widen: a 3x3 convolution to 16 channels; three stages of (depth - 4) / 6 pre-activation
    blocks with 16, 32 and 64 times `widen` channels; normalization, average pooling and Linear. WRN-28-10
    with batch norm has 36,479,194 parameters on 3 channels and 10 classes.

    `norm` is as for model=resnet. Refuses a depth that is not 6 m + 4, inputs that are no images, and groups
    that do not divide 16.
    """
    if depth < 10 or (depth - 4) % 6:
        raise Refusal(f"model.depth={depth}: a wide ResNet has 6 m + 4 layers; try 10, 16, 22, 28 or 40")
    if widen < 1:
        raise Refusal(f"model.widen={widen}: the factor of the widths is at least 1")
    check_width(16, groups, norm)
    image_channels, _, _ = image("wide_resnet", shape)
    layers: list[nn.Module] = [convolution(image_channels, 16, 3, 1, norm)]
    channels = 16
    for stage in range(3):
        for block in range((depth - 4) // 6):
            stride = 2 if stage and not block else 1
            layers.append(_Block(channels, 16 * widen * 2**stage, stride, norm, groups))
            channels = 16 * widen * 2**stage
    return initialized(
        nn.Sequential(
            *layers,
            normalization(norm, groups, channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, outputs),
        )
    )


class _Block(nn.Module):
    """x + conv(relu(norm(conv(a)))) with a = relu(norm(x)); a 1x1 convolution of a in place of x where the
    size changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm, groups: int) -> None:
        super().__init__()
        self.norm1 = normalization(norm, groups, inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride, norm)
        self.norm2 = normalization(norm, groups, outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1, norm)
        self.shortcut = None
        if stride > 1 or inputs != outputs:
            self.shortcut = convolution(inputs, outputs, 1, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(x))
        y = self.conv2(F.relu(self.norm2(self.conv1(a))))
        return y + (x if self.shortcut is None else self.shortcut(a))
