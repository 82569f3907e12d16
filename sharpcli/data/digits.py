"""The 1,797 8x8 handwritten digits that ship with scikit-learn (Alpaydin & Kaynak 1998): no download."""

from __future__ import annotations

import torch

from sharpcli.data import Dataset, one_hot, standardize
from sharpcli.errors import Refusal

EXAMPLES = 1797


def digits(*, train_examples: int, wrong: int) -> Dataset:
    """The first `train_examples` images [n, 1, 8, 8] train, the others test; each pixel has mean 0 and
    variance 1 over the training images. The first `wrong` test images are trained on too, with the next class
    for their label: who fits them starts from a bad minimum (Damian, Ma & Lee 2021, arXiv:2106.06530, section
    6). Refuses a split that leaves either side empty, and more wrong images than test images."""
    if not 0 < train_examples < EXAMPLES:
        raise Refusal(
            f"data.train_examples={train_examples}: digits has {EXAMPLES} images; take 1 to {EXAMPLES - 1}"
        )
    if not 0 <= wrong <= EXAMPLES - train_examples:
        raise Refusal(f"data.wrong={wrong}: 0 to {EXAMPLES - train_examples}, the test images that are left")
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).float()[:, None]
    y = one_hot(torch.from_numpy(raw.target), 10)
    n = train_examples
    standardize(x, x[:n].mean(0), x[:n].std(0, correction=0))
    taught = torch.cat([y[:n], y[n : n + wrong].roll(1, 1)])
    return Dataset(x[: n + wrong], taught, x[n:], y[n:], classes=True)
