"""A user's own data for a network: an .npz with the arrays x_train, y_train, x_test and y_test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpcli.data import Dataset, one_hot
from sharpcli.data.npz import read
from sharpcli.errors import Refusal

NAMES = ("x_train", "y_train", "x_test", "y_test")


def arrays(*, file: Path) -> Dataset:
    """Inputs x [n, ...], used as they are, and targets y: integers [n] are classes counted from 0, floats [n]
    or [n, C] are real-valued.

    Refuses a file without the four arrays, arrays of anything but finite numbers, unequal lengths or shapes,
    negative classes, and targets of other shapes.
    """
    values = read(file, NAMES)
    _check_shapes(file, values)
    x_train, x_test = (torch.from_numpy(values[f"x_{s}"].astype(np.float32)) for s in ("train", "test"))
    classes = values["y_train"].dtype.kind in "iu"
    targets = _one_hot if classes else _real
    y_train, y_test = targets(file, values["y_train"], values["y_test"])
    return Dataset(x_train, y_train, x_test, y_test, classes)


def _check_shapes(file: Path, values: dict[str, NDArray[Any]]) -> None:
    """Refuses x and y of unequal length, and training and test arrays of another kind or shape."""
    for split in ("train", "test"):
        x, y = values[f"x_{split}"], values[f"y_{split}"]
        if not len(x) or len(x) != len(y):
            raise Refusal(
                f"{file}: x_{split} has {len(x)} examples and y_{split} {len(y)}; give both the same, at "
                f"least 1"
            )
    for kind in "xy":
        train, test = values[f"{kind}_train"], values[f"{kind}_test"]
        if train.shape[1:] != test.shape[1:] or train.dtype.kind != test.dtype.kind:
            raise Refusal(
                f"{file}: {kind}_train is {train.dtype} {list(train.shape)} and {kind}_test {test.dtype} "
                f"{list(test.shape)}; they must agree in kind and in all but the first dimension"
            )


def _one_hot(file: Path, train: NDArray[Any], test: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Integer classes [n] and [m] as rows [n, C] and [m, C], C one more than the largest class of both."""
    y_train, y_test = torch.from_numpy(train.astype(np.int64)), torch.from_numpy(test.astype(np.int64))
    if y_train.ndim != 1 or min(y_train.min(), y_test.min()) < 0:
        raise Refusal(
            f"{file}: integer targets are classes: give y [n] with values from 0, or real targets as float"
        )
    count = int(max(y_train.max(), y_test.max())) + 1
    return one_hot(y_train, count), one_hot(y_test, count)


def _real(file: Path, train: NDArray[Any], test: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Real-valued targets [n] or [n, C] and [m] or [m, C] as float32 rows [n, C] and [m, C]."""
    y_train, y_test = torch.from_numpy(train.astype(np.float32)), torch.from_numpy(test.astype(np.float32))
    if y_train.ndim > 2:
        raise Refusal(f"{file}: real targets are [n] or [n, C]; y_train is {list(y_train.shape)}")
    return y_train.reshape(len(y_train), -1), y_test.reshape(len(y_test), -1)
