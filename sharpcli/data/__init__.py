"""Data sets. A part is a function `(folder, *, ...) -> Dataset`, `folder` being the `data_dir=` that a data
set is downloaded into; a part without a download leaves the parameter out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal

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


def with_wrong(data: Dataset, wrong: int | None) -> Dataset:
    """The data set whose training examples are also the first `wrong` test examples, each with the label of
    the next class (the first after the last); None: none.

    A network that fits them is at a bad minimum, to start from (Damian, Ma & Lee 2021, arXiv:2106.06530,
    section 6). Test scores then include these examples. Refuses more than there are test examples, and
    targets that are no classes.
    """
    if not wrong:
        return data
    if not data.classes or data.outputs is not None:
        raise Refusal(
            f"data.wrong={wrong}: for examples of one class each, and these have none; leave it out"
        )
    if not 0 < wrong <= len(data.x_test):
        raise Refusal(f"data.wrong={wrong}: 0 to {len(data.x_test)}, the number of test examples")
    x = torch.cat([data.x_train, data.x_test[:wrong]])
    y = torch.cat([data.y_train, data.y_test[:wrong].roll(1, dims=1)])
    return replace(data, x_train=x, y_train=y)


def standardize(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """x <- (x - mean) / std in place; a constant feature, whose std is 0, becomes 0."""
    return x.sub_(mean).div_(torch.where(std > 0, std, 1.0))


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Class indices [n] as float32 rows [n, classes]."""
    return torch.nn.functional.one_hot(labels.long(), classes).float()
