"""The 1,797 handwritten digits of 8x8 pixels that scikit-learn contains (Alpaydin & Kaynak 1998), so that
nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from sharpcli.data import Dataset, one_hot, standardize, with_wrong
from sharpcli.errors import Refusal

IMAGES = 1797


def digits(*, train_examples: int, wrong: int) -> Dataset:
    """The first `train_examples` images [n, 1, 8, 8] are the training set, all others the test set; every
    pixel is standardized to mean 0 and variance 1 over these training images.

    `wrong` as in `with_wrong`. Refuses a training or test set without images.
    """
    if not 0 < train_examples < IMAGES:
        raise Refusal(
            f"data.train_examples={train_examples}: digits has {IMAGES} images; take 1 to {IMAGES - 1}"
        )
    images, labels = _read()
    x = torch.from_numpy(images).float()[:, None]
    y = one_hot(torch.from_numpy(labels), 10)
    n = train_examples
    standardize(x, x[:n].mean(0), x[:n].std(0, correction=0))
    return with_wrong(Dataset(x[:n], y[:n], x[n:], y[n:], classes=True), wrong)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """The images [1797, 8, 8] and the labels. `sklearn.datasets.load_digits` reads the same file; to import
    it takes longer than a short run, so that it is left to versions of scikit-learn that keep the file
    elsewhere."""
    package = find_spec("sklearn")
    file = Path((package and package.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if not file.is_file():
        from sklearn.datasets import load_digits

        raw = load_digits()
        return raw.images, raw.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
