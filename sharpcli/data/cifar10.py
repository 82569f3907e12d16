"""CIFAR-10 (Krizhevsky 2009) through torchvision, in memory as tensors."""

from __future__ import annotations

import socket
from pathlib import Path

import torch
from torch import Tensor

from sharpcli.data import Dataset, Standardize, one_hot, standardize
from sharpcli.errors import Refusal

TRAIN, TEST = 50_000, 10_000


def cifar10(folder: Path, *, train_examples: int, test_examples: int, standardized: Standardize) -> Dataset:
    """The first `train_examples` and `test_examples` images [n, 3, 32, 32].

    `standardized=pixel` subtracts each of the 3,072 means and divides by the standard deviation, both over
    all 50,000 training images; `channel` does so with the three of each colour; `none` leaves [0, 1].
    Downloads once into `folder`. Refuses sizes out of range, and files that are missing or damaged where they
    cannot be downloaded.
    """
    for name, size, most in (("train", train_examples, TRAIN), ("test", test_examples, TEST)):
        if not 0 < size <= most:
            raise Refusal(f"data.{name}_examples={size}: cifar10 has {most} {name} images; take 1 to {most}")
    x, labels = _read(folder, train=True)
    mean, std = _moments(x, standardized)
    x_train = standardize(_scaled(x[:train_examples]), mean, std)
    y_train = one_hot(labels[:train_examples], 10)
    x, labels = _read(folder, train=False)
    x_test = standardize(_scaled(x[:test_examples]), mean, std)
    return Dataset(x_train, y_train, x_test, one_hot(labels[:test_examples], 10), classes=True)


def _read(folder: Path, train: bool) -> tuple[Tensor, Tensor]:
    from torchvision.datasets import CIFAR10

    try:
        raw = CIFAR10(str(folder), train=train, download=False)
    except (RuntimeError, OSError):
        raw = _download(folder, train)
    return torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets)


def _scaled(x: Tensor) -> Tensor:
    """Bytes to [0, 1], in the default memory layout."""
    return x.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _download(folder: Path, train: bool):  # type: ignore[no-untyped-def]
    from torchvision.datasets import CIFAR10

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)
    try:
        return CIFAR10(str(folder), train=train, download=True)
    except Exception as problem:  # urllib, tarfile and torchvision each raise their own
        raise Refusal(
            f"cifar10: no complete, undamaged copy in {folder / CIFAR10.base_folder} and downloading it "
            f"failed "
            f"({type(problem).__name__}: {problem}); put the files there, or name their folder with "
            f"data_dir= or SHARP_DATA"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)


def _moments(x: Tensor, standardized: Standardize) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x / 255, exact: sums of bytes are integers. Never a float copy of all
    images."""
    if standardized == "none":
        return torch.zeros(()), torch.ones(())
    total, square = torch.zeros(x.shape[1:]).long(), torch.zeros(x.shape[1:]).long()
    for part in x.split(5000):
        part = part.long()
        total += part.sum(0)
        square += part.square().sum(0)
    n = len(x)
    if standardized == "channel":
        n, total, square = n * 32 * 32, total.sum((1, 2), keepdim=True), square.sum((1, 2), keepdim=True)
    mean = total.double() / n
    std = (square.double() / n - mean.square()).sqrt()
    return (mean / 255).float(), (std / 255).float()
