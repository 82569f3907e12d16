"""A user's texts as tokens, for language models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sharpcli.data import IGNORED, Dataset
from sharpcli.errors import Refusal


def tokens(*, file: Path, length: int, test_share: float, pad: int | None) -> Dataset:
    """The tokens of an .npy file, an array [n, T + 1] of texts or one long text [N], which is cut into texts
    of `length` + 1: inputs are the first T tokens [n, T] of each, targets the T after them.

    The last `test_share` of the texts are test texts. Targets that are the token `pad` do not count. There
    are as many classes as the largest token says. Refuses files that hold no such array, texts of fewer than
    two tokens, and shares out of [0, 1).
    """
    if not 0 <= test_share < 1 or length < 1:
        raise Refusal(
            f"data.test_share={test_share} data.length={length}: a share in [0, 1), at least 1 token"
        )
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise Refusal(f"{file}: not readable as .npy ({problem!s:.120}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.ndim not in (1, 2):
        kind = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise Refusal(f"{file}: holds {kind}; give integers [n, T + 1], or one long text [N]")
    if array.ndim == 1:
        n = len(array) // (length + 1)
        array = array[: n * (length + 1)].reshape(n, length + 1)
    if not len(array) or array.shape[1] < 2 or array.min() < 0:
        raise Refusal(
            f"{file}: {list(array.shape)} tokens from {array.min(initial=0)}; give texts of at least two "
            f"tokens, counted from 0"
        )
    ids = torch.from_numpy(array.astype(np.int64))
    n = len(ids) - int(test_share * len(ids))
    x, y = ids[:, :-1], ids[:, 1:].clone()
    if pad is not None:
        y[y == pad] = IGNORED
    if not bool((y[:n] != IGNORED).any()):
        raise Refusal(f"data.pad={pad}: no target counts; give the token that fills up short texts")
    parts = [part.clone() for part in (x[:n], y[:n], x[n:], y[n:])]
    return Dataset(parts[0], parts[1], parts[2], parts[3], classes=True, outputs=int(ids.max()) + 1)
