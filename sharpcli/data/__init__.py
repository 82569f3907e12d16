"""Data sets. A part is a function `(folder, *, ...) -> Dataset`, `folder` being the `data_dir=` that a data
set is downloaded into; a part without a download leaves the parameter out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

IGNORED = -100  # a target that does not count, as PyTorch writes it
Standardize = Literal["pixel", "channel", "none"]


@dataclass(frozen=True)
class Dataset:
    """Training inputs x_train [n, ...] and targets y_train [n, C], test inputs x_test [m, ...] and targets
    y_test [m, C]: tensors in memory, in float32 or float64, or inputs in int64 (tokens, classes, bytes). The
    problem takes them in its own dtype.

    The targets are real-valued, or for `classes` one-hot, where the largest output is the predicted class.
    Integer targets [n, T] are classes themselves, of `outputs` classes, and those that are `IGNORED` do not
    count: a model gives [n, T, outputs].
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: bool
    outputs: int | None = None


def standardize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x <- (x - mean) / std in place; a constant feature, whose std is 0, becomes 0."""
    return x.sub_(mean).div_(torch.where(std > 0, std, 1.0))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Class indices [n] as float32 rows [n, classes]."""
    return torch.nn.functional.one_hot(labels.long(), classes).float()
