"""Networks whose loss does not depend on the size of their weights: Li & Arora 2020, arXiv:1910.07454; Lyu,
Li & Arora 2022, arXiv:2206.07085."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sharpcli.errors import Refusal

INPUTS = 4  # random ones, on which the network is compared with itself
# Relative difference of the outputs at twice the weights: normalization adds 1e-5 to a variance.
TOLERANCE = 1e-2


def scale_invariant(
    shape: tuple[int, ...], outputs: int, *, base: Callable[[tuple[int, ...], int], nn.Module]
) -> nn.Module:
    """The network `base` (a model of its own, `model@model.base=`) of which only the weights below a
    normalization are trained: its biases, the normalizations' own parameters and its last matrix stay as they
    are initialized.

    Then L(c w) = L(w) for c > 0 and all trained weights w: w.grad L = 0, grad L(c w) = grad L(w) / c, and H(c
    w) = H(w) / c^2. Refuses a network whose outputs change with the size of w, on random inputs at twice w.
    """
    net = base(shape, outputs)
    matrices = [p for p in net.parameters() if p.ndim > 1]
    for p in net.parameters():
        p.requires_grad_(p.ndim > 1 and p is not matrices[-1])
    trained = [p for p in net.parameters() if p.requires_grad]
    x = torch.randn(INPUTS, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        for p in trained:
            p.mul_(2)
        after = net(x)
        for p in trained:
            p.div_(2)
    change = float((after - before).norm() / before.norm())
    if not trained or not change <= TOLERANCE:
        raise Refusal(
            f"model.base: no scale-invariant network: at twice the weights its outputs change by "
            f"{change:.2g} of their size; normalize after every layer, as model@model.base=resnet, "
            f"resnet18, wide_resnet or vgg with model.base.norm=group, layer or batch"
        )
    return net
