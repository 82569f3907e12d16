"""The characters of a user's text, for language models."""

from __future__ import annotations

from pathlib import Path

import torch

from sharpcli.data import Dataset
from sharpcli.errors import Refusal


def characters(*, file: Path, length: int, test_share: float) -> Dataset:
    """The characters of a text file in UTF-8, numbered in their order in Unicode and cut into pieces of
    `length` + 1: inputs are the first T = length characters [n, T] of each, targets the T after them. What is
    left at the end is dropped. The last `test_share` of the pieces are test pieces. There are as many classes
    as the text has different characters.

    Refuses a file that is no text, a text shorter than a piece, and shares outside [0, 1).
    """
    if not 0 <= test_share < 1 or length < 1:
        raise Refusal(
            f"data.test_share={test_share} data.length={length}: a share in [0, 1), at least 1 character"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise Refusal(f"{file}: not readable as text in UTF-8 ({problem!s:.120})") from None
    n = len(text) // (length + 1)
    if n - int(test_share * n) < 1:
        raise Refusal(f"{file}: {len(text)} characters; give at least {length + 1}, or a smaller data.length")
    alphabet = sorted(set(text))
    number = {character: i for i, character in enumerate(alphabet)}
    ids = torch.tensor([number[character] for character in text[: n * (length + 1)]]).reshape(n, length + 1)
    x, y, of_training = ids[:, :-1].clone(), ids[:, 1:].clone(), n - int(test_share * n)
    return Dataset(
        x[:of_training],
        y[:of_training],
        x[of_training:],
        y[of_training:],
        classes=True,
        outputs=len(alphabet),
    )
