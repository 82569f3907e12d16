"""A user's arrays from an .npz file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from sharpcli.errors import Refusal


def read(file: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of these names in an .npz file.

    Refuses a file that is no .npz or lacks one of them, and an array of no dimension or of anything but
    finite numbers.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive]:
                present = ", ".join(archive) or "nothing"
                raise Refusal(
                    f"{file}: no {', '.join(missing)} in it (it has {present}); save {', '.join(names)}"
                )
            values = {name: archive[name] for name in names}
    except (OSError, ValueError, TypeError, BadZipFile, AttributeError) as problem:
        raise Refusal(f"{file}: not a readable .npz ({problem}); write one with numpy.savez") from None
    for name, array in values.items():
        if array.dtype.kind not in "fiu" or array.ndim == 0:
            raise Refusal(
                f"{file}: {name} is {array.dtype} {list(array.shape)}; give an array of numbers (float or "
                f"integer)"
            )
        if not np.isfinite(array).all():
            raise Refusal(f"{file}: {name} holds NaN or infinity; give finite numbers")
    return values
