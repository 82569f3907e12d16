"""A user's examples for a regression toy: an .npz with the arrays Z and y."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sharpcli.data import Dataset
from sharpcli.data.npz import exact, read
from sharpcli.errors import Refusal


def table(*, file: Path) -> Dataset:
    """Inputs Z [n, d], or matrices Z [n, d, d] for the matrix problems, and labels y [n], in float64; there
    are no test examples.

    Refuses a file without the two arrays, arrays of other shapes or of anything but finite numbers, numbers
    that float64 does not hold, n = 0 and d = 0.
    """
    Z, y = read(file, ("Z", "y")).values()
    is_list_of_inputs = Z.ndim == 2 or (Z.ndim == 3 and Z.shape[1] == Z.shape[2])
    if not is_list_of_inputs or y.shape != Z.shape[:1] or not Z.size:
        raise Refusal(
            f"{file}: Z is {list(Z.shape)} and y {list(y.shape)}; give Z [n, d] (or [n, d, d]) and y [n], n "
            f"and d at least 1"
        )
    inputs, labels = (torch.from_numpy(exact(file, name, a, np.float64)) for name, a in (("Z", Z), ("y", y)))
    return Dataset(inputs, labels[:, None], inputs[:0], labels[:0, None], classes=False)
