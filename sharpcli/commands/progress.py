"""The progress of a run or of long measures: a bar in a terminal, plain lines in a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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

from sharpcli.commands.report import note
from sharpcli.jsonl import Row, is_number

SECONDS_BETWEEN_LINES = 10.0  # of a long measure, in a log file
LINES_OF_RUN = 20  # about so many plain lines are printed in a whole run
SECONDS_BETWEEN_REDRAWS = 0.1  # of the bar, at steps without a row


def describe(row: Row, scores: Sequence[str]) -> str:
    """A row in short, as `loss 0.01  accuracy 1  lambda_1 9.8 (edge 10)`: the columns `scores`, the trace and
    lambda_1 with its edge, as far as the row has them; of replicas, which one the row is of."""
    of_replica = [f"(replica {row['replica']})"] if "replica" in row else []
    if row.get("diverged"):
        return "  ".join(["diverged", *of_replica])
    parts = [
        f"{key.removeprefix('train_')} {row[key]:.4g}"
        for key in (*scores, "trace")
        if is_number(row.get(key))
    ]
    if is_number(row.get("lambda_1")):
        edges = {"edge": row.get("edge"), "edge of the base": row.get("base_edge")}
        stated = "".join(f" ({name} {value:.4g})" for name, value in edges.items() if is_number(value))
        parts.append(f"lambda_1 {row['lambda_1']:.4g}{stated}")
    parts += [f"{key.removesuffix('_not_finite')} not finite" for key in row if key.endswith("_not_finite")]
    return "  ".join(parts + of_replica)


def describe_time(seconds: float) -> str:
    """Seconds as h:mm:ss, or as m:ss below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def progress(
    steps: int, start: int, scores: Sequence[str], job: str = "", unit: str = "step"
) -> Iterator[Any]:
    """Shows how far a run of `steps` steps is that begins at step `start`. Yields `tell(step, row)`, which is
    to be called at every step, with None for `row` where there is none; that call is cheap. `scores` are the
    columns to show, `job` is the name of one of several at a time, `unit` what a step is called."""
    console = Console(stderr=True)
    show = _bar if console.is_terminal else partial(_lines, unit=unit)
    with show(console, steps, start, scores, job) as tell:
        yield tell


@contextmanager
def _bar(console: Console, steps: int, start: int, scores: Sequence[str], job: str) -> Iterator[Any]:
    """`progress` by a bar that is drawn again."""
    columns = (
        MofNCompleteColumn(),
        BarColumn(12),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),  # brackets in a score's name are no style
    )
    # step, bar and times stay whole in a narrow terminal, which would take width from all columns alike
    room = max(0, console.width - (2 * len(str(steps)) + 1 + 12 + 7 + 7 + 5))

    def cut(text: str) -> str:
        return text if len(text) <= room else text[: max(room - 1, 0)] + "…"

    with Progress(*columns, console=console) as bar:
        task = bar.add_task(cut(job), total=steps, completed=start)
        drawn_at = 0.0

        def tell(step: int, row: Row | None) -> None:
            nonlocal drawn_at
            if row is not None:
                bar.update(task, completed=step, description=cut(job + describe(row, scores)))
            elif time.monotonic() - drawn_at > SECONDS_BETWEEN_REDRAWS:
                drawn_at = time.monotonic()
                bar.update(task, completed=step)

        yield tell


@contextmanager
def _lines(
    console: Console, steps: int, start: int, scores: Sequence[str], job: str, unit: str
) -> Iterator[Any]:
    """`progress` by a printed line at some of the rows."""
    began, next_step, every = time.monotonic(), start, max(1, steps // LINES_OF_RUN)

    def tell(step: int, row: Row | None) -> None:
        nonlocal next_step
        if row is None or not (
            step >= next_step or step == steps or row.get("diverged") or row.get("stopped")
        ):
            return
        next_step = (step // every + 1) * every
        seconds_left = (time.monotonic() - began) / max(step - start, 1) * (steps - step)
        time_left = f"  {describe_time(seconds_left)} left" if start < step < steps else ""
        note(f"{job}{unit} {step}/{steps}  {describe(row, scores)}{time_left}")

    yield tell


@contextmanager
def measuring() -> Iterator[Any]:
    """Shows how far long measures are: in a terminal a line that is rewritten, in a log file a line every ten
    seconds. Yields `tell(name, products, error)`, where `name` says what is measured and `error` is the
    relative error reached, or NaN."""
    console = Console(stderr=True)

    def text(name: str, products: int, error: float) -> str:
        error_reached = "" if math.isnan(error) else f", relative error {error:.1e}"
        return f"{name}: {products} products{error_reached}"

    if console.is_terminal:
        with console.status("") as status:
            yield lambda name, products, error: status.update(text(name, products, error))
        return
    printed_at = time.monotonic()

    def tell(name: str, products: int, error: float) -> None:
        nonlocal printed_at
        if time.monotonic() - printed_at > SECONDS_BETWEEN_LINES:
            printed_at = time.monotonic()
            note(text(name, products, error))

    yield tell
