"""A user's images, one folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset, Standardize, with_wrong
from sharpcli.data.images import dataset
from sharpcli.errors import Refusal

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def image_folder(
    *,
    file: Path,
    size: int,
    gray: bool,
    test_share: float,
    standardized: Standardize,
    wrong: int | None,
) -> Dataset:
    """Images in a folder, one folder for each class: `<file>/train/<class>/*` and `<file>/test/<class>/*`, or
    `<file>/<class>/*`, of which the last `test_share` of each class are test images.

    Each image is resized, and cropped in the middle, to `size` x `size` pixels. `wrong` as in
    `with_wrong`. Refuses a folder without classes or images, files that are no images, and shares out of
    [0, 1).
    """
    if size < 1 or not 0 <= test_share < 1:
        raise Refusal(
            f"data.size={size} data.test_share={test_share}: a size of at least 1, a share in [0, 1)"
        )
    if not file.is_dir():
        raise Refusal(
            f"data.file={file}: no such folder; name a folder with a folder of images for each class"
        )
    of_splits = (file / "train").is_dir()
    train = _files(file / "train" if of_splits else file)
    test = _files(file / "test") if of_splits and (file / "test").is_dir() else {}
    classes = sorted(train)
    if unknown := sorted(set(test) - set(classes)):
        raise Refusal(f"data.file={file}: the class {unknown[0]} has test images, and no training images")
    if not of_splits:
        kept = {name: len(files) - int(test_share * len(files)) for name, files in train.items()}
        test = {name: files[kept[name] :] for name, files in train.items()}
        train = {name: files[: kept[name]] for name, files in train.items()}
    loaded = [_load(split, classes, size, gray) for split in (train, test)]
    images = dataset(loaded[0], loaded[1], None, None, standardized, len(classes))
    return with_wrong(images, wrong)


def _files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, sorted by name."""
    classes = sorted(place for place in folder.iterdir() if place.is_dir() and not place.name.startswith("."))
    out = {
        place.name: sorted(f for f in place.iterdir() if f.suffix.lower() in SUFFIXES) for place in classes
    }
    if not out or not all(out.values()):
        empty = next((name for name, files in out.items() if not files), "")
        what = f"the class {empty} has no image" if empty else "no folder of a class"
        raise Refusal(f"data.file={folder}: {what}; give a folder of images ({', '.join(SUFFIXES[:3])}) each")
    return out


def _load(files: dict[str, list[Path]], classes: list[str], size: int, gray: bool) -> tuple[Tensor, Tensor]:
    from PIL import Image, ImageOps

    images, labels = [], []
    for name, of_class in files.items():
        for file in of_class:
            try:
                with Image.open(file) as image:
                    fitted = ImageOps.fit(image.convert("L" if gray else "RGB"), (size, size))
            except (OSError, ValueError) as problem:
                raise Refusal(f"{file}: not readable as an image ({problem}); remove or replace it") from None
            array = torch.from_numpy(np.array(fitted))
            images.append(array[None] if gray else array.permute(2, 0, 1))
            labels.append(classes.index(name))
    channels = 1 if gray else 3
    x = torch.stack(images) if images else torch.zeros(0, channels, size, size, dtype=torch.uint8)
    return x, torch.tensor(labels, dtype=torch.long)
