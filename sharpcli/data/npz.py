"""A user's arrays from an .npz file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharpcli.errors import Refusal


def read(file: Path, names: Sequence[str], number: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of these names in an .npz file: integers, or floats in the precision that they have. A
    `number` of no dimension may be there too.

    Refuses a file that is no .npz or lacks one of them; an array of no dimension or of anything but finite
    numbers; one whose content does not have the size that it declares, or the checksum in the file; and
    arrays that are larger than the machine's memory. Pickled objects are never read.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            places = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(places) < len(archive.infolist()):
                raise ValueError("two arrays have the same name")
            if missing := [name for name in names if name not in places]:
                present = ", ".join(list(places)[:8])[:200] or "nothing"
                raise Refusal(
                    f"{file}: no {', '.join(missing)} in it (it has {present}); save {', '.join(names)}"
                )
            names = [*names, number] if number in places else names
            _check_memory(file, sum(places[name].file_size for name in names))
            values = {name: _array(archive, places[name], name) for name in names}
    except Exception as problem:  # what zipfile, zlib and numpy raise on damaged files is of many classes
        reason = (str(problem) or type(problem).__name__).split("\n", maxsplit=1)[0][:160]
        raise Refusal(f"{file}: not a readable .npz ({reason}); write one with numpy.savez") from None
    for name, array in values.items():
        if array.dtype.kind not in "fiu" or (array.ndim == 0) != (name == number):
            raise Refusal(
                f"{file}: {name} is {array.dtype} {list(array.shape)}; give "
                f"{'a number' if name == number else 'an array of numbers'} (float or integer)"
            )
        if not np.isfinite(array).all():
            raise Refusal(f"{file}: {name} holds NaN or infinity; give finite numbers")
    return values


def exact(file: Path, name: str, values: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """An array in another dtype. Refuses numbers that the dtype does not hold exactly."""
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        out = values.astype(dtype)
        same = np.array_equal(out.astype(values.dtype), values) and bool(np.isfinite(out).all())
    if not same or (np.issubdtype(dtype, np.integer) and bool(((out < 0) != (values < 0)).any())):
        raise Refusal(
            f"{file}: {name} is {values.dtype} with numbers that {np.dtype(dtype)} does not hold exactly; "
            f"save it as {np.dtype(dtype)}"
        )
    return out


def _array(archive: zipfile.ZipFile, place: zipfile.ZipInfo, name: str) -> NDArray[Any]:
    """One array. Raises ValueError where its header declares more or fewer bytes than there are."""
    with archive.open(place) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"{name} is in version {version[0]}.{version[1]} of the .npy format")
        if dtype.hasobject:
            raise ValueError(f"{name} holds pickled Python objects, which are never read")
        size = dtype.itemsize
        for n in shape:
            size *= n
        if min(shape, default=0) < 0 or size != place.file_size - stream.tell():
            raise ValueError(f"{name} declares {list(shape)} of {dtype}, and has {place.file_size} bytes")
    with archive.open(place) as stream:
        array = np.lib.format.read_array(stream, allow_pickle=False)
        if stream.read(1):  # to its end, where zipfile compares the checksum
            raise ValueError(f"{name} has more bytes than it declares")
    return array


def _check_memory(file: Path, size: int) -> None:
    """Refuses arrays that are larger than the machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise Refusal(
            f"{file}: its arrays have {size / 1e9:.3g} GB, and this machine {memory / 1e9:.3g} GB of memory; "
            f"save fewer examples"
        )
