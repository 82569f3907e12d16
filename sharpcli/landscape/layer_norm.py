"""Layer normalization that can be differentiated three times.

The third derivatives of PyTorch's own layer norm are wrong: in float64 by 2 to 5 % in torch 2.14, against
differences of v.Hv. Written out in elementary operations they are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class LayerNorms(TorchFunctionMode):
    """A mode in which torch's function `layer_norm` and the one of `torch.nn.functional` are computed by
    `layer_norm` of this module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.nn.functional.layer_norm, torch.layer_norm):
            return layer_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """(x - mean) / sqrt(variance + eps) weight + bias, the moments over the last dimensions, those of
    `shape`."""
    dims = list(range(-len(shape), 0))
    centered = x - x.mean(dims, keepdim=True)
    y = centered * (centered.square().mean(dims, keepdim=True) + eps).rsqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias
