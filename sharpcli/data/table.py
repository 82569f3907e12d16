"""A user's examples for a regression toy: an .npz with the arrays Z and y."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sharpcli.data import Dataset
from sharpcli.data.npz import read
from sharpcli.errors import Refusal


def table(*, file: Path) -> Dataset:
    """Inputs Z [n, d], or matrices Z [n, d, d] for the matrix problems, and labels y [n], in float64; there
    are no test examples.

    Refuses a file without the two arrays, arrays of other shapes or of anything but finite numbers, and n =
    0.
    """
    Z, y = read(file, ("Z", "y")).values()
    is_list_of_inputs = Z.ndim == 2 or (Z.ndim == 3 and Z.shape[1] == Z.shape[2])
    if not is_list_of_inputs or y.shape != Z.shape[:1] or not len(y):
        raise Refusal(
            f"{file}: Z is {list(Z.shape)} and y {list(y.shape)}; give Z [n, d] (or [n, d, d]) and y [n], n "
            f"at least 1"
        )
    inputs, labels = torch.from_numpy(Z.astype(np.float64)), torch.from_numpy(y.astype(np.float64))[:, None]
    return Dataset(inputs, labels, inputs[:0], labels[:0], classes=False)
