"""Objects of a preset, and fair timing: the contestants take turns within one run, and the ratio is of
medians."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import Experiment, build


def experiment(*words: str) -> Experiment:
    """The objects that override words mean."""
    return build(check(compose(words), words))


def seconds(rounds: int, *contestants: Callable[[], object]) -> list[float]:
    """Median seconds of each, called in turn after one call that does not count."""
    times: list[list[float]] = [[] for _ in contestants]
    for turn in range(rounds + 1):
        for into, contestant in zip(times, contestants, strict=True):
            started = time.perf_counter()
            contestant()
            if turn:
                into.append(time.perf_counter() - started)
    return [statistics.median(t) for t in times]


def machine() -> str:
    """Cores, threads and version, for beside the numbers."""
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def table(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Question, measured, wanted."""
    print(f"\n{title} ({machine()})")
    for question, measured, wanted in rows:
        print(f"  {question:<58} {measured:>12}   wanted {wanted}", flush=True)
