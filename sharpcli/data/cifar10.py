"""CIFAR-10 (Krizhevsky 2009) through torchvision, in memory as tensors."""

from __future__ import annotations

import socket
from pathlib import Path

import torch
from torch import Tensor

from sharpcli.data import Dataset, Standardize, one_hot, standardize, with_wrong
from sharpcli.errors import Refusal

TRAIN_IMAGES, TEST_IMAGES = 50_000, 10_000
DOWNLOAD_TIMEOUT = 20  # seconds without an answer after which a download is given up
IMAGES_AT_ONCE = 5000  # the sums for mean and variance are over integers of 8 bytes, made of so many images


def cifar10(
    folder: Path,
    *,
    train_examples: int,
    test_examples: int,
    standardized: Standardize,
    wrong: int | None,
) -> Dataset:
    """The first `train_examples` training and the first `test_examples` test images, [n, 3, 32, 32].

    `standardized=pixel` subtracts from each of the 3,072 numbers of an image its mean and divides it by its
    standard deviation, both over all 50,000 training images; `channel` does so with one mean and one standard
    deviation a colour; `none` leaves numbers in [0, 1]. `wrong` as in `with_wrong`. The files are
    downloaded once into `folder`. Refuses sizes out of range, and files that are missing or damaged where
    they cannot be downloaded.
    """
    for name, size, most in (("train", train_examples, TRAIN_IMAGES), ("test", test_examples, TEST_IMAGES)):
        if not 0 < size <= most:
            raise Refusal(f"data.{name}_examples={size}: cifar10 has {most} {name} images; take 1 to {most}")
    x, labels = _read(folder, train=True)
    mean, std = _moments(x, standardized)
    x_train = standardize(_scaled(x[:train_examples]), mean, std)
    y_train = one_hot(labels[:train_examples], 10)
    x, labels = _read(folder, train=False)
    x_test = standardize(_scaled(x[:test_examples]), mean, std)
    data = Dataset(x_train, y_train, x_test, one_hot(labels[:test_examples], 10), classes=True)
    return with_wrong(data, wrong)


def _read(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    """All images as bytes [n, 3, 32, 32] and their classes [n], downloaded where they are not in `folder`."""
    from torchvision.datasets import CIFAR10

    try:
        raw = CIFAR10(str(folder), train=train, download=False)
    except (RuntimeError, OSError):
        raw = _download(folder, train)
    return torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets)


def _scaled(x: Tensor) -> Tensor:
    """Bytes as float32 numbers in [0, 1], in the default memory layout."""
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _download(folder: Path, train: bool):  # type: ignore[no-untyped-def]
    """torchvision's data set, downloaded into `folder`. Refuses where the download fails."""
    from torchvision.datasets import CIFAR10

    former_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        return CIFAR10(str(folder), train=train, download=True)
    except Exception as problem:  # urllib, tarfile and torchvision raise exceptions of many classes
        raise Refusal(
            f"cifar10: no complete, undamaged copy in {folder / CIFAR10.base_folder} and downloading it "
            f"failed ({type(problem).__name__}: {problem!s:.100}); put the files there, or name their "
            f"folder with data_dir= or SHARP_DATA"
        ) from None
    finally:
        socket.setdefaulttimeout(former_timeout)


def _moments(x: Tensor, standardized: Standardize) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x / 255 over the images x [n, 3, 32, 32]: [3, 32, 32] for `pixel` and
    [3, 1, 1] for `channel`; 0 and 1 for `none`. They are exact, for sums of bytes are integers, and no float
    copy of all images is made."""
    if standardized == "none":
        return torch.zeros(()), torch.ones(())
    n, sums, squares = len(x), torch.zeros(x.shape[1:]).long(), torch.zeros(x.shape[1:]).long()
    for part in x.split(IMAGES_AT_ONCE):
        images = part.long()
        sums += images.sum(0)
        squares += images.square().sum(0)
    if standardized == "channel":
        n, sums, squares = n * 32 * 32, sums.sum((1, 2), keepdim=True), squares.sum((1, 2), keepdim=True)
    mean = sums.double() / n
    std = (squares.double() / n - mean.square()).sqrt()
    return (mean / 255).float(), (std / 255).float()
