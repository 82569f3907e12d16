"""A user's own data for a network: an .npz with the arrays x_train, y_train, x_test and y_test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpcli.data import Dataset, one_hot, with_wrong
from sharpcli.data.npz import exact, read
from sharpcli.errors import Refusal

NAMES = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 1_000_000


def arrays(*, file: Path, wrong: int | None) -> Dataset:
    """Inputs x [n, ...], used as they are, and targets y: integers [n] are classes counted from 0, floats [n]
    or [n, C] are real-valued. Floats keep their precision (half precision becomes float32), and integer
    inputs stay integers.

    The classes are those of y_train: every one from 0 to the largest must occur, and y_test has no other. A
    number `classes` in the file says how many there are, and then some need not occur: for the outputs of a
    network that was trained on more data. `wrong` as in `with_wrong`. Refuses a file without the four arrays,
    arrays of anything but finite numbers, unequal lengths or shapes, inputs without a dimension beside n,
    classes other than these, a single class, and targets of other shapes.
    """
    values = read(file, NAMES, number="classes")
    classes = int(values["classes"]) if "classes" in values else None
    _check_shapes(file, values)
    x_train, x_test = (_inputs(file, name, values[name]) for name in ("x_train", "x_test"))
    has_classes = values["y_train"].dtype.kind in "iu"
    if has_classes:
        count = _count(file, values["y_train"], values["y_test"], classes)
        y_train, y_test = (
            one_hot(torch.from_numpy(values[name].astype(np.int64)), count) for name in ("y_train", "y_test")
        )
    elif classes is not None:
        raise Refusal(f"{file}: classes is {classes} and y_train real-valued; save classes as integers")
    else:
        y_train, y_test = (_real(file, name, values[name]) for name in ("y_train", "y_test"))
    return with_wrong(Dataset(x_train, y_train, x_test, y_test, has_classes), wrong)


def _check_shapes(file: Path, values: dict[str, NDArray[Any]]) -> None:
    """Refuses x and y of unequal length, inputs that are single numbers or empty, and training and test
    arrays of another kind or shape."""
    for split in ("train", "test"):
        x, y = values[f"x_{split}"], values[f"y_{split}"]
        if not len(x) or len(x) != len(y):
            raise Refusal(
                f"{file}: x_{split} has {len(x)} examples and y_{split} {len(y)}; give both the same, at "
                f"least 1"
            )
        if x.ndim < 2 or not x.size or not y.size:
            raise Refusal(
                f"{file}: x_{split} is {list(x.shape)} and y_{split} {list(y.shape)}; give x [n, ...] with a "
                f"dimension beside n, as x[:, None] has for single numbers"
            )
    for kind in "xy":
        train, test = values[f"{kind}_train"], values[f"{kind}_test"]
        same_kind = (train.dtype.kind == "f") == (test.dtype.kind == "f")
        if train.shape[1:] != test.shape[1:] or not same_kind:
            raise Refusal(
                f"{file}: {kind}_train is {train.dtype} {list(train.shape)} and {kind}_test {test.dtype} "
                f"{list(test.shape)}; they must agree in kind and in all but the first dimension"
            )


def _inputs(file: Path, name: str, x: NDArray[Any]) -> Tensor:
    """Inputs as float32 or float64, whichever holds them exactly, and integers as int64."""
    return (
        torch.from_numpy(exact(file, name, x, np.int64)) if x.dtype.kind in "iu" else _floats(file, name, x)
    )


def _floats(file: Path, name: str, values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(
        exact(file, name, values, np.float32 if values.dtype.itemsize <= 4 else np.float64)
    )


def _real(file: Path, name: str, y: NDArray[Any]) -> Tensor:
    """Real-valued targets [n] or [n, C] as rows [n, C]."""
    if y.ndim > 2:
        raise Refusal(f"{file}: real targets are [n] or [n, C]; {name} is {list(y.shape)}")
    return _floats(file, name, y).reshape(len(y), -1)


def _count(file: Path, train: NDArray[Any], test: NDArray[Any], given: int | None) -> int:
    """The number of classes of integer labels [n] and [m]. Refuses labels that are none of them, and says
    which classes occur."""
    if train.ndim != 1 or min(train.min(), test.min()) < 0:
        raise Refusal(
            f"{file}: integer targets are classes: give y [n] with values from 0, or real targets as float"
        )
    occur = np.unique(train)
    largest, count = int(occur[-1]), len(occur) if given is None else given
    said = f"{len(occur)} classes occur in y_train ({_listed(occur)})"
    if given is not None and not 1 < given <= MOST_CLASSES:
        raise Refusal(f"{file}: classes is {given}, and {said}; save their number, 2 to {MOST_CLASSES}")
    if largest >= count:
        raise Refusal(
            f"{file}: {said}, so that some of the {largest + 1} from 0 to {largest} do not; number them from "
            f"0 to {len(occur) - 1}, leave out examples without a label, or save the network's number of "
            f"outputs beside them, classes={largest + 1}"
            if given is None
            else f"{file}: classes is {given}, and {said}; save at least {largest + 1}"
        )
    if (unknown := np.setdiff1d(test, occur)).size and (given is None or int(unknown[-1]) >= count):
        raise Refusal(
            f"{file}: y_test has classes that y_train has not ({_listed(unknown)}), where {said}; leave "
            f"those examples out, or save the network's number of outputs beside them, classes="
            f"{max(largest, int(unknown[-1])) + 1}"
        )
    if count < 2:
        raise Refusal(f"{file}: a single class occurs in y_train ({largest}); a network has nothing to learn")
    return count


def _listed(classes: NDArray[Any]) -> str:
    """The first of the classes, and the last."""
    names = [str(int(label)) for label in classes]
    return ", ".join(names if len(names) <= 8 else [*names[:6], "...", names[-1]])
