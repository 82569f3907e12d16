"""Randomness keyed by who draws and when, so that no generator's state has to be saved."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Generator

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Stream(Generator):
    """The draws of one consumer at one step: a generator for PyTorch, and words of bits that compiled loops draw too.

    The words are those of SplitMix64 (Steele, Lea & Flood 2014) at the counters 2^32 step + i: a function of (key, step,
    i), which `kernel.py` computes without an array.
    """

    key: int
    step: int

    def bits(self, count: int) -> NDArray[np.uint64]:
        """`count` words of 64 random bits."""
        return _words(self.key, self.step, count)

    def signs(self, count: int) -> NDArray[np.float64]:
        """+-1 each with probability 1/2: bit i mod 64 of word i // 64."""
        i = np.arange(count, dtype=np.uint64)
        bit = (self.bits(-(-count // 64))[i >> np.uint64(6)] >> (i & np.uint64(63))) & np.uint64(1)
        out: NDArray[np.float64] = 2.0 * bit.astype(np.float64) - 1.0
        return out

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Uniform in [-1, 1)."""
        out: NDArray[np.float64] = (self.bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
        return out

    def normal(self, count: int) -> NDArray[np.float64]:
        """N(0, 1), by Box and Muller, of two words each."""
        words = (self.bits(2 * count) >> np.uint64(11)) * 2.0**-53
        return np.sqrt(-2.0 * np.log1p(-words[::2])) * np.cos(2 * np.pi * words[1::2])

    def student(self, count: int) -> NDArray[np.float64]:
        """Student's t with 4 degrees of freedom over sqrt 2: variance 1, infinite fourth moment. By its quantile function
        (Shaw 2006), q = 2 sign(p - 1/2) sqrt(cos(arccos(sqrt a)/3)/sqrt a - 1), a = 4 p (1 - p)."""
        p = ((self.bits(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        root = np.sqrt(4 * p * (1 - p))
        return np.sign(p - 0.5) * np.sqrt(2 * np.maximum(np.cos(np.arccos(np.minimum(root, 1.0)) / 3) / root - 1, 0))

    def choices(self, count: int, n: int) -> NDArray[np.int64]:
        """`count` of 0 ... n - 1, with replacement."""
        return (((self.bits(count) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)).astype(np.int64)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """0 ... n - 1 in random order (Fisher & Yates)."""
        i = np.arange(n, dtype=np.uint64)
        swaps = (i + (((self.bits(n) >> np.uint64(32)) * (np.uint64(n) - i)) >> np.uint64(32))).tolist()
        order = list(range(n))
        for at, other in enumerate(swaps):
            order[at], order[other] = order[other], order[at]
        return np.array(order, dtype=np.int64)


def generator(seed: int, consumer: str, step: int) -> Stream:
    """A fresh stream that depends on (seed, consumer, step) and on nothing drawn before.

    Adding a consumer or skipping a step moves no other draw, and a resumed run draws what a whole one would.
    """
    stream = Stream()
    stream.manual_seed(_digest(f"{seed}/{consumer}/{step}"))
    stream.key, stream.step = key(seed, consumer), step
    return stream


def key(seed: int, consumer: str) -> int:
    """The 64 bits that tell a consumer's words from all others'."""
    return _digest(f"{seed}/{consumer}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _words(key: int, step: int, count: int) -> NDArray[Any]:
    at = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(step << 32)
    x = np.uint64(key) + np.uint64(GOLDEN) * at
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))
