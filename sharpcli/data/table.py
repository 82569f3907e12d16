"""A user's own regression problem for a toy: an .npz with Z and y."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch

from sharpcli.data import Dataset
from sharpcli.errors import Refusal


def table(*, file: str, sha256: str) -> Dataset:
    """Z [n, d], or matrices [n, d, d] for the matrix problems, and labels y [n], in float64; no test set.

    `sha256` is the content hash of `file`, filled in when the config is checked. Refuses a file without the
    two arrays, of unequal lengths, with NaN or infinity, or that are no numbers.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            if missing := [name for name in ("Z", "y") if name not in archive]:
                raise Refusal(
                    f"{file}: no {' and no '.join(missing)} in it (it has "
                    f"{', '.join(archive) or 'nothing'}); save Z and y"
                )
            Z, y = archive["Z"], archive["y"]
    except (OSError, ValueError, TypeError, BadZipFile, AttributeError) as problem:
        raise Refusal(f"{Path(file)}: not a readable .npz ({problem}); write one with numpy.savez") from None
    if any(a.dtype.kind not in "fiu" or not np.isfinite(a).all() for a in (Z, y)):
        raise Refusal(f"{file}: Z is {Z.dtype} and y {y.dtype}; give finite numbers")
    if (
        Z.ndim not in (2, 3)
        or (Z.shape[1:] != Z.shape[1:][::-1] and Z.ndim == 3)
        or y.shape != Z.shape[:1]
        or not len(y)
    ):
        raise Refusal(
            f"{file}: Z is {list(Z.shape)} and y {list(y.shape)}; give Z [n, d] (or [n, d, d]) and y [n], n "
            f"at least 1"
        )
    x, right = torch.from_numpy(Z.astype(np.float64)), torch.from_numpy(y.astype(np.float64))[:, None]
    return Dataset(x, right, x[:0], right[:0], classes=False)
