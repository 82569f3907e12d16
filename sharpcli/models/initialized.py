"""A network that starts from other weights than its own: the law, the scale and the biases of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from sharpcli.errors import Refusal

Law = Literal["kaiming", "xavier", "orthogonal"]
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialized(
    shape: tuple[int, ...],
    outputs: int,
    *,
    base: Callable[[tuple[int, ...], int], nn.Module],
    law: Law | None,
    scale: float,
    zero_biases: bool,
) -> nn.Module:
    """The network `base` (a model of its own, `model@model.base=`) with the matrices of its linear layers and
    convolutions drawn anew by `law` and multiplied by `scale`, and their biases 0 with `zero_biases`.
    Everything else (embeddings, the parameters of normalizations) starts as `base` has it.

    | law | a weight w [m, d], d the inputs of a unit |
    |---|---|
    | kaiming | N(0, 2 / d): He et al. 2015, arXiv:1502.01852 |
    | xavier | N(0, 2 / (d + m)): Glorot & Bengio 2010 |
    | orthogonal | orthonormal rows, or columns where m > d: Saxe et al. 2014, arXiv:1312.6120 |
    | null | as `base` draws it |

    A small `scale` starts near the origin, from which networks learn features. Refuses scale <= 0, and a
    network without such layers.
    """
    if not 0 < scale < float("inf"):
        raise Refusal(f"model.scale={scale}: multiplies the weights at the start, so above 0")
    net = base(shape, outputs)
    layers = [layer for layer in net.modules() if isinstance(layer, LAYERS)]
    if not layers:
        raise Refusal("model.base: no linear layer and no convolution, so nothing to initialize")
    draw: dict[Law, Callable[[Tensor], Tensor]] = {
        "kaiming": nn.init.kaiming_normal_,
        "xavier": nn.init.xavier_normal_,
        "orthogonal": nn.init.orthogonal_,
    }
    for layer in layers:
        if law is not None:
            draw[law](layer.weight)
        layer.weight.data.mul_(scale)
        if zero_biases and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return net
