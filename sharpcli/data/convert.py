"""A user's `torch.utils.data.Dataset` as tensors in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from sharpcli.data import Dataset, one_hot
from sharpcli.errors import Refusal


def as_dataset(given: Any) -> Dataset:
    """The examples of a map-style data set as training data, or of a pair (training, test) of them. An
    example is (x, y): x a tensor of one shape, y a class (an integer) or a tensor of real targets.

    Refuses what is neither, examples of another kind or of several shapes, and data without examples.
    """
    if isinstance(given, Dataset):
        return given
    parts = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, TorchDataset) for part in parts):
        kind = type(given).__name__
        raise Refusal(
            f"data: gives a {kind}; give a sharpcli.data.Dataset, a torch.utils.data.Dataset, or a pair "
            f"(training, test) of them"
        )
    (x, y), *test = [_tensors(part, name) for part, name in zip(parts, ("training", "test"), strict=False)]
    tx, ty = test[0] if test else (x[:0], y[:0])
    if y.dtype == torch.int64:
        classes = int(max(y.max(), ty.max() if len(ty) else 0)) + 1
        return Dataset(x, one_hot(y, classes), tx, one_hot(ty, classes), classes=True)
    return Dataset(x, y, tx, ty, classes=False)


def _tensors(part: Any, name: str) -> tuple[Tensor, Tensor]:
    """All inputs [n, ...], and all targets: classes [n], or real numbers [n, C]."""
    n = len(part) if hasattr(part, "__len__") else 0
    if not n:
        raise Refusal(f"data: the {name} data have no length, or no example; give a data set with both")
    xs, ys = list[Tensor](), list[Tensor]()
    for i in range(n):
        example = part[i]
        if not (isinstance(example, tuple | list) and len(example) == 2 and isinstance(example[0], Tensor)):
            raise Refusal(
                f"data: example {i} of the {name} data is a {type(example).__name__}; give pairs (tensor, "
                f"target): images need transform=ToTensor()"
            )
        x, y = example
        if xs and x.shape != xs[0].shape:
            raise Refusal(
                f"data: example {i} of the {name} data has the shape {list(x.shape)}, and the first "
                f"{list(xs[0].shape)}; give inputs of one shape"
            )
        xs.append(x)
        ys.append(torch.as_tensor(y))
    y = torch.stack(ys)
    if y.is_floating_point():
        return torch.stack(xs), y.reshape(n, -1)
    if y.ndim > 1 or bool((y < 0).any()):
        raise Refusal(
            f"data: the targets of the {name} data are integers {list(y.shape)}; give classes from 0"
        )
    return torch.stack(xs), y.long()
