"""Randomness keyed by who draws and when, so that no generator's state has to be saved."""

from __future__ import annotations

import hashlib

from torch import Generator


def generator(seed: int, consumer: str, step: int) -> Generator:
    """A fresh CPU generator that depends on (seed, consumer, step) and on nothing drawn before.

    Adding a consumer or skipping a step moves no other draw, and a resumed run draws what a whole one would.
    """
    digest = hashlib.blake2b(f"{seed}/{consumer}/{step}".encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little"))
