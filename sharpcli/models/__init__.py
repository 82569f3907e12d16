"""Networks. A part is a function `(shape, outputs, *, ...) -> Module`: one input's shape, the number of outputs."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["tanh", "relu", "gelu", "silu", "softplus", "identity"]
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
