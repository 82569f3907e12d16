"""Image data sets of torchvision in memory as tensors: CIFAR-100, MNIST, Fashion-MNIST, SVHN; and a folder of
images."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset, Standardize, one_hot, standardize
from sharpcli.errors import Refusal

DOWNLOAD_TIMEOUT = 20  # seconds without an answer after which a download is given up
Name = Literal["CIFAR100", "MNIST", "FashionMNIST", "SVHN"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


def torchvision_images(
    folder: Path,
    *,
    name: Name,
    train_examples: int | None,
    test_examples: int | None,
    standardized: Standardize,
) -> Dataset:
    """The first `train_examples` training and `test_examples` test images of a data set of torchvision,
    [n, channels, height, width]; null: all.

    `standardized` as in `cifar10`: by the mean and the standard deviation over all training images, of each
    pixel, of each channel, or none. The files are downloaded once into `folder`. Refuses sizes out of range,
    and files that are missing or damaged where they cannot be downloaded.
    """
    x, y = _read(folder, name, True)
    tx, ty = _read(folder, name, False)
    wanted = (("train", train_examples, len(x)), ("test", test_examples, len(tx)))
    for split, size, most in wanted:
        if size is not None and not 0 < size <= most:
            raise Refusal(f"data.{split}_examples={size}: {name} has {most} {split} images; take 1 to {most}")
    return _dataset((x, y), (tx, ty), train_examples, test_examples, standardized)


def image_folder(
    *, file: Path, size: int, gray: bool, test_share: float, standardized: Standardize
) -> Dataset:
    """Images in a folder, one folder for each class: `<file>/train/<class>/*` and `<file>/test/<class>/*`, or
    `<file>/<class>/*`, of which the last `test_share` of each class are test images.

    Each image is resized, and cropped in the middle, to `size` x `size` pixels. Refuses a folder without
    classes or images, files that are no images, and shares out of [0, 1).
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
    return _dataset(loaded[0], loaded[1], None, None, standardized, len(classes))


def _dataset(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    train_examples: int | None,
    test_examples: int | None,
    standardized: Standardize,
    classes: int | None = None,
) -> Dataset:
    x, y = train
    tx, ty = test
    dims = {"pixel": (0,), "channel": (0, 2, 3), "none": ()}[standardized]
    mean, std = torch.zeros(()), torch.ones(())
    if dims:
        all_of_it = x.double() / 255
        mean = all_of_it.mean(dims, keepdim=True)[0].float()
        std = all_of_it.std(dims, keepdim=True, unbiased=False)[0].float()
        del all_of_it
    n = int(max(y.max(), ty.max() if len(ty) else 0)) + 1 if classes is None else classes
    return Dataset(
        standardize(x[:train_examples].float().div_(255), mean, std),
        one_hot(y[:train_examples], n),
        standardize(tx[:test_examples].float().div_(255), mean, std),
        one_hot(ty[:test_examples], n),
        classes=True,
    )


def _read(folder: Path, name: Name, train: bool) -> tuple[Tensor, Tensor]:
    """All images as bytes [n, channels, height, width] and their classes [n]."""
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    split = {"split": "train" if train else "test"} if name == "SVHN" else {"train": train}
    try:
        raw = kind(str(folder), download=False, **split)
    except (RuntimeError, OSError):
        raw = _download(lambda: kind(str(folder), download=True, **split), name, folder)
    x = torch.as_tensor(np.asarray(raw.data))
    if x.ndim == 3:  # gray
        x = x[:, None]
    elif x.shape[-1] == 3:
        x = x.permute(0, 3, 1, 2)
    labels = raw.labels if name == "SVHN" else raw.targets
    return x.contiguous(), torch.as_tensor(np.asarray(labels)).long()


def _download(load: Callable[[], Any], name: str, folder: Path) -> Any:
    former_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        return load()
    except Exception as problem:  # urllib, tarfile and torchvision raise exceptions of many classes
        raise Refusal(
            f"{name}: no complete, undamaged copy in {folder} and downloading it failed "
            f"({type(problem).__name__}: {problem!s:.120}); put the files where torchvision.datasets.{name} "
            f"looks for them, or name their folder with data_dir= or SHARP_DATA"
        ) from None
    finally:
        socket.setdefaulttimeout(former_timeout)


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
