"""Data sets. A part is a function `(folder, *, ...) -> Dataset`; one that reads no file takes no `folder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Standardize = Literal["pixel", "channel", "none"]


@dataclass(frozen=True)
class Dataset:
    """Tensors in memory, float32 but for toys: x_train [n, ...], y_train [n, C], x_test [m, ...], y_test [m,
    C].

    Targets are real-valued; for `classes` they are one-hot and a prediction is scored by its largest output.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: bool


def standardize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(x - mean) / std in place, where a constant feature (std 0) becomes 0."""
    return x.sub_(mean).div_(torch.where(std > 0, std, 1.0))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Class indices [n] as float32 rows [n, classes]."""
    return torch.nn.functional.one_hot(labels.long(), classes).float()
