"""Randomness keyed by (seed, consumer, step), so that no generator's state has to be saved.

`laws` draws the same words in compiled code.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from torch import Generator

# the constants of SplitMix64, Steele, Lea & Flood 2014, figure 19
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Stream(Generator):
    """The draws of one consumer at one step: PyTorch's generator, seeded by (seed, consumer, step), and
    beside it words of 64 random bits that compiled loops draw too.

    It is a `torch.Generator` because `torch.randn(..., generator=)` takes nothing else. The words are those
    of SplitMix64 at the counters 2^32 step + i, i = 1, 2, ...: a function of (key, step, i), without any
    state.
    """

    key: int
    step: int

    def __new__(cls, seed: int, key: int, step: int) -> Stream:
        """A stream whose generator starts from `seed` and whose words are those of `key` at `step`."""
        stream = super().__new__(cls)
        stream.manual_seed(seed)
        stream.key, stream.step = key, step
        return stream

    def bits(self, count: int) -> NDArray[np.uint64]:
        """`count` words of 64 random bits."""
        counters = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(self.step << 32)
        x = np.uint64(self.key) + np.uint64(GOLDEN) * counters
        x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
        return x ^ (x >> np.uint64(31))

    def signs(self, count: int) -> NDArray[np.float64]:
        """+-1 each with probability 1/2: bit i mod 64 of word i // 64."""
        i = np.arange(count, dtype=np.uint64)
        bit = (self.bits(-(-count // 64))[i >> np.uint64(6)] >> (i & np.uint64(63))) & np.uint64(1)
        out: NDArray[np.float64] = 2.0 * bit.astype(np.float64) - 1.0
        return out

    def normal(self, count: int) -> NDArray[np.float64]:
        """N(0, 1), by Box and Muller, of two words each."""
        uniform = (self.bits(2 * count) >> np.uint64(11)) * 2.0**-53
        return np.sqrt(-2.0 * np.log1p(-uniform[::2])) * np.cos(2 * np.pi * uniform[1::2])

    def choices(self, count: int, n: int) -> NDArray[np.int64]:
        """`count` of 0 ... n - 1, with replacement."""
        return (((self.bits(count) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)).astype(np.int64)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """0 ... n - 1 in random order (Fisher & Yates)."""
        i = np.arange(n, dtype=np.uint64)
        swaps = (i + (((self.bits(n) >> np.uint64(32)) * (np.uint64(n) - i)) >> np.uint64(32))).tolist()
        order = list(range(n))
        for position, other in enumerate(swaps):
            order[position], order[other] = order[other], order[position]
        return np.array(order, dtype=np.int64)


def generator(seed: int, consumer: str, step: int) -> Stream:
    """A fresh stream that depends on (seed, consumer, step) and on nothing drawn before.

    Adding a consumer or skipping a step moves no other draw, and a resumed run draws what a whole one would.
    """
    return Stream(_digest(f"{seed}/{consumer}/{step}"), key(seed, consumer), step)


def key(seed: int, consumer: str) -> int:
    """The 64 bits that tell a consumer's words from all others'."""
    return _digest(f"{seed}/{consumer}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
