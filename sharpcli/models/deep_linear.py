"""A deep linear network, W_L ... W_1 x, as in Saxe et al. 2014, arXiv:1312.6120, and Arora et al. 2018,
arXiv:1802.06509."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import torch
from torch import nn

from sharpcli.errors import Refusal


def deep_linear(
    shape: tuple[int, ...], outputs: int, *, depth: int, width: int, scale: float, balanced: bool
) -> nn.Module:
    """Flatten, then `depth` matrices without biases, `width` units between them. Each starts from N(0,
    scale^2 / inputs). With `balanced`, W_{i+1}^T W_{i+1} = W_i W_i^T from the start, which gradient flow
    keeps: each matrix is `scale` times one of as many singular values 1 as there are outputs.

    Refuses a depth or a width below 1, scale below 0, and balanced layers that are narrower than the outputs.
    """
    if depth < 1 or width < 1 or not scale >= 0:
        raise Refusal(
            f"model.depth={depth} model.width={width} model.scale={scale}: depth and width at least 1, scale "
            f"at least 0"
        )
    sizes = [prod(shape), *[width] * (depth - 1), outputs]
    if balanced and min(sizes) < outputs:
        raise Refusal(
            f"model.balanced=true: layers of {min(sizes)} units cannot be balanced with {outputs} outputs; "
            f"give model.width={outputs} or more"
        )
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    with torch.no_grad():
        frame: torch.Tensor | None = None  # orthonormal rows in the space between two layers [outputs, units]
        for layer in layers:
            rows, columns = layer.weight.shape
            if not balanced:
                layer.weight.copy_(scale * torch.randn(rows, columns) / columns**0.5)
                continue
            into = _orthonormal(outputs, columns) if frame is None else frame
            frame = _orthonormal(outputs, rows)
            layer.weight.copy_(scale * frame.T @ into)  # rank `outputs`, its singular values all `scale`
    return nn.Sequential(nn.Flatten(), *layers)


def _orthonormal(rows: int, columns: int) -> torch.Tensor:
    """`rows` orthonormal rows [rows, columns]."""
    return torch.linalg.qr(torch.randn(columns, rows))[0].T
