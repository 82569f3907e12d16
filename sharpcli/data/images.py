"""Image data sets in memory as tensors: what those of torchvision and a folder of images have in common."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset, Standardize, one_hot, standardize
from sharpcli.errors import Refusal

DOWNLOAD_TIMEOUT = 20  # seconds without an answer after which a download is given up


def torchvision_images(
    folder: Path,
    name: str,
    train_examples: int | None,
    test_examples: int | None,
    standardized: Standardize,
) -> Dataset:
    """The first `train_examples` training and `test_examples` test images of the data set that the class
    `name` of torchvision.datasets reads, [n, channels, height, width]; None: all.

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
    return dataset((x, y), (tx, ty), train_examples, test_examples, standardized)


def dataset(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    train_examples: int | None,
    test_examples: int | None,
    standardized: Standardize,
    classes: int | None = None,
) -> Dataset:
    """Images as bytes [n, channels, height, width] and their classes [n] as a data set."""
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


def _read(folder: Path, name: str, train: bool) -> tuple[Tensor, Tensor]:
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
            f"({type(problem).__name__}: {problem!s:.100}); put torchvision's files there, or name "
            f"their folder with data_dir= or SHARP_DATA"
        ) from None
    finally:
        socket.setdefaulttimeout(former_timeout)
