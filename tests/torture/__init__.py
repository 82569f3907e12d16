"""Torture: the real program killed, fed damaged and hostile files, and watched for leaks.

`make test` does a small share of it, `make torture` all of it. SHARP_TORTURE is the share in per cent,
SHARP_TORTURE_SEED the seed of every random choice: a failure names the seed and the number of its case, and
the same two find it again.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from sharpcli.errors import Refusal

PERCENT = float(os.environ.get("SHARP_TORTURE", "2"))
SEED = int(os.environ.get("SHARP_TORTURE_SEED", "1"))
ONLY = os.environ.get("SHARP_TORTURE_CASE")  # the number of a single case, to look at a failure
# tests that share the cases of a kind, so that two processes end at about the same time; each prepares itself
SHARDS = 2 if PERCENT < 20 else 8


def amount(full: int) -> int:
    """How many of `full` cases this share does, at least one."""
    return max(1, round(full * PERCENT / 100))


def cases(full: int, shard: int = 0, shards: int = 1) -> Iterable[int]:
    """The numbers of a shard's cases. A case is decided by its number and the seed, whatever the share."""
    if ONLY is not None:
        return [int(ONLY)] if int(ONLY) % shards == shard else []
    return range(shard, amount(full), shards)


def draws(kind: str, case: int) -> random.Random:
    """The random choices of a case."""
    return random.Random(f"{SEED} {kind} {case}")


def share(names: Iterable[str]) -> list[str]:
    """As many of some names as this share does, five times as many where there are few; drawn by the seed."""
    names = list(names)
    number = min(len(names), max(1, round(len(names) * 5 * PERCENT / 100)))
    return sorted(random.Random(SEED).sample(names, number), key=names.index)


class Hung(BaseException):
    """A command that did not end within its limit; no `except Exception` catches it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises Hung in what runs within, once `seconds` have passed."""

    def ring(*_: object) -> None:
        raise Hung(f"no end within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    # again and again: the first could be raised where an exception is ignored, as in a destructor
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def at_most_gigabytes(gigabytes: float) -> Iterator[None]:
    """A MemoryError where a process would grow by more: a small file that expands must not fill memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 1e9), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def each(kind: str, numbers: Iterable[int], one: Callable[[int], str | None]) -> None:
    """Tries every case; `one` gives None, or says what was wrong. Fails at the end with all that were."""
    wrong, tried = [], 0
    for case in numbers:
        tried += 1
        try:
            fault = one(case)
        except (Exception, Hung, Refusal) as problem:
            fault = f"{type(problem).__name__}: {problem}\n{traceback.format_exc(limit=-6)}"
        if fault:
            wrong.append(
                f"--- {kind}, case {case} (SHARP_TORTURE_SEED={SEED} SHARP_TORTURE_CASE={case}): {fault}"
            )
    assert not wrong, f"{len(wrong)} of {tried} cases of {kind}, seed {SEED}:\n" + "\n".join(wrong)
