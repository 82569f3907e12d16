"""What the benchmarks share: the objects of a preset, fair timing, and printing. Contestants are timed in
turn within one process, and ratios are ratios of medians."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import Experiment, build

RESNET20_256 = (  # ResNet-20, measured on 256 images
    "experiment=resnet20_cifar10",
    "data.train_examples=512",
    "data.test_examples=64",
    "measure_examples=256",
)


def experiment(*overrides: str) -> Experiment:
    """The experiment of overrides such as `lr=0.1`, as `sharp train` takes them."""
    return build(check(compose(overrides), overrides))


def seconds(rounds: int, *contestants: Callable[[], object]) -> list[float]:
    """The median seconds of a call of each contestant over `rounds` rounds, in each of which all are called
    in turn, after one round that does not count."""
    times: list[list[float]] = [[] for _ in contestants]
    for number in range(rounds + 1):
        for times_of_contestant, contestant in zip(times, contestants, strict=True):
            started = time.perf_counter()
            contestant()
            if number > 0:
                times_of_contestant.append(time.perf_counter() - started)
    return [statistics.median(times_of_contestant) for times_of_contestant in times]


def machine() -> str:
    """The number of cores and threads and the version of torch, printed with every table."""
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def table(title: str, rows: Sequence[tuple[str, str, str]]) -> None:
    """Prints rows of a question, the measured value and the value that is wanted."""
    print(f"\n{title} ({machine()})")
    for question, measured, wanted in rows:
        print(f"  {question:<58} {measured:>12}   wanted {wanted}", flush=True)
