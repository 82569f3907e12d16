"""A user's own data: an .npz with x_train, y_train, x_test and y_test."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from sharpcli.data import Dataset, one_hot
from sharpcli.errors import Refusal

NAMES = ("x_train", "y_train", "x_test", "y_test")


def arrays(*, file: str, sha256: str) -> Dataset:
    """x [n, ...] of numbers, as it is; y integer classes [n] (from 0) or real targets [n] or [n, C].

    `sha256` is the content hash of `file`, filled in when the config is checked. Refuses a file without the
    four arrays, with unequal lengths or shapes, NaN or infinity, or a dtype that is no number.
    """
    found = _load(Path(file))
    for split in ("train", "test"):
        x, y = found[f"x_{split}"], found[f"y_{split}"]
        if not len(x) or len(x) != len(y):
            raise Refusal(
                f"{file}: x_{split} has {len(x)} examples and y_{split} {len(y)}; give both the same, at "
                f"least 1"
            )
    for kind in "xy":
        train, test = found[f"{kind}_train"], found[f"{kind}_test"]
        if train.shape[1:] != test.shape[1:] or train.dtype.kind != test.dtype.kind:
            raise Refusal(
                f"{file}: {kind}_train is {train.dtype} {list(train.shape)} and {kind}_test {test.dtype} "
                f"{list(test.shape)}; "
                "they must agree in kind and in all but the first dimension"
            )
    classes = found["y_train"].dtype.kind in "iu"
    x_train, x_test = (torch.from_numpy(found[f"x_{s}"].astype(np.float32)) for s in ("train", "test"))
    if classes:
        y_train, y_test = (torch.from_numpy(found[f"y_{s}"].astype(np.int64)) for s in ("train", "test"))
        if y_train.ndim != 1 or min(y_train.min(), y_test.min()) < 0:
            raise Refusal(
                f"{file}: integer targets are classes: give y [n] with values from 0, or real targets as "
                f"float"
            )
        count = int(max(y_train.max(), y_test.max())) + 1
        y_train, y_test = one_hot(y_train, count), one_hot(y_test, count)
    else:
        y_train, y_test = (torch.from_numpy(found[f"y_{s}"].astype(np.float32)) for s in ("train", "test"))
        if y_train.ndim > 2:
            raise Refusal(f"{file}: real targets are [n] or [n, C]; y_train is {list(y_train.shape)}")
        y_train, y_test = y_train.reshape(len(y_train), -1), y_test.reshape(len(y_test), -1)
    return Dataset(x_train, y_train, x_test, y_test, classes)


def _load(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive]
            if missing:
                raise Refusal(
                    f"{file}: no {', '.join(missing)} in it (it has {', '.join(archive) or 'nothing'}); "
                    f"save all of {', '.join(NAMES)}"
                )
            found = {name: archive[name] for name in NAMES}
    except (OSError, ValueError, TypeError, BadZipFile, AttributeError) as problem:
        raise Refusal(f"{file}: not a readable .npz ({problem}); write one with numpy.savez") from None
    for name, values in found.items():
        if values.dtype.kind not in "fiu" or values.ndim == 0:
            raise Refusal(
                f"{file}: {name} is {values.dtype} {list(values.shape)}; give an array of numbers (float or "
                f"integer)"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Refusal(f"{file}: {name} holds NaN or infinity; clean it first")
    return found
