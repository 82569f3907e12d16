"""What long work says while it lasts: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sharpcli.jsonl import Row

BETWEEN_LINES = 10.0  # seconds between the lines of a long measure
LINES = 20  # about so many plain lines are printed in a whole run
REFRESH = 0.1  # seconds between two drawings of the bar


def describe(row: Row, scores: Sequence[str]) -> str:
    """The few numbers of a row that tell how a run is doing: its problem's scores, and the curvature."""
    if row.get("diverged"):
        return "diverged"
    parts = [
        f"{key.removeprefix('train_')} {row[key]:.4g}"
        for key in (*scores, "trace")
        if row.get(key) is not None
    ]
    if row.get("lambda_1") is not None:
        edge = row.get("edge", row.get("base_edge"))
        parts.append(f"lambda_1 {row['lambda_1']:.4g}" + ("" if edge is None else f" (edge {edge:.4g})"))
    return "  ".join(parts)


def describe_time(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def progress(steps: int, start: int, scores: Sequence[str]) -> Iterator[Any]:
    """Yields `tell(step, row)`, to be called at every step; a call without a row is cheap. `scores` are the
    columns to show."""
    console = Console(stderr=True)
    show = _bar if console.is_terminal else _lines
    with show(console, steps, start, scores) as tell:
        yield tell


@contextmanager
def _bar(console: Console, steps: int, start: int, scores: Sequence[str]) -> Iterator[Any]:
    columns = (
        MofNCompleteColumn(),
        BarColumn(20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=steps, completed=start)
        shown = 0.0

        def tell(step: int, row: Row | None) -> None:
            nonlocal shown
            if row is not None:
                bar.update(task, completed=step, description=describe(row, scores))
            elif time.monotonic() - shown > REFRESH:
                shown = time.monotonic()
                bar.update(task, completed=step)

        yield tell


@contextmanager
def _lines(console: Console, steps: int, start: int, scores: Sequence[str]) -> Iterator[Any]:
    began, next_step, every = time.monotonic(), start, max(1, steps // LINES)

    def tell(step: int, row: Row | None) -> None:
        nonlocal next_step
        if row is None or not (step >= next_step or step == steps or row.get("diverged")):
            return
        next_step = (step // every + 1) * every
        left = (time.monotonic() - began) / max(step - start, 1) * (steps - step)
        ending = f"  {describe_time(left)} left" if start < step < steps else ""
        print(f"step {step}/{steps}  {describe(row, scores)}{ending}", file=console.file, flush=True)

    yield tell


@contextmanager
def measuring() -> Iterator[Any]:
    """Yields `tell(where, products, error)` for long measures: a line that is rewritten in a terminal, one
    every ten seconds in a log file."""
    console = Console(stderr=True)

    def text(where: str, products: int, error: float) -> str:
        reached = "" if math.isnan(error) else f", relative error {error:.1e}"
        return f"{where}: {products} products{reached}"

    if console.is_terminal:
        with console.status("") as status:
            yield lambda *what: status.update(text(*what))
        return
    shown = time.monotonic()

    def tell(where: str, products: int, error: float) -> None:
        nonlocal shown
        if time.monotonic() - shown > BETWEEN_LINES:
            shown = time.monotonic()
            print(text(where, products, error), file=console.file, flush=True)

    yield tell
