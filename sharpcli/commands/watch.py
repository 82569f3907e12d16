"""`sharp watch`: a table of the runs that are under way, drawn again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from sharpcli.commands.progress import describe_time
from sharpcli.commands.report import number
from sharpcli.errors import Refusal, printable, signals
from sharpcli.jsonl import is_number
from sharpcli.run import Run
from sharpcli.runs_dir import in_directory

LATELY = 60  # seconds since a row was written
UNFOLDED = 10_000  # columns, wider than any table
COLUMNS = ("run", "step", "loss", "lambda_1", "over its edge", "time left")


def watch(folder: Path, seconds: float, once: bool) -> None:
    """Draws the table every `seconds` seconds in a terminal, until no run is under way or a signal ends it;
    `once`, and into a file, it is printed a single time. Refuses a folder that is none."""
    if not folder.is_dir():
        raise Refusal(f"{folder}: no such directory; runs_dir= or SHARP_RUNS names where the runs are")
    if not seconds > 0:
        raise Refusal(f"--every {seconds}: above 0")
    console = Console()
    if not console.is_terminal:  # a file and a pipe have no width: a name must stay whole to be found in them
        console = Console(width=UNFOLDED)
    if once or not console.is_terminal:
        console.print(table(folder))
        return
    live = Live(table(folder), console=console, auto_refresh=False)
    with suppress(KeyboardInterrupt), signals.raised(), live:
        while any(_under_way(folder)):
            time.sleep(seconds)
            live.update(table(folder), refresh=True)


def table(folder: Path) -> Table:
    """The runs under way: the step, the last loss, lambda_1, lambda_1 over its edge, and the time left at the
    speed so far."""
    runs = list(_under_way(folder))
    out = Table(
        *COLUMNS, title=f"{len(runs)} under way in {folder}" if runs else f"no run under way in {folder}"
    )
    for column in out.columns[1:]:
        column.justify = "right"
    for run in runs:
        out.add_row(*cells(run))
    return out


def cells(run: Run) -> list[str]:
    """The row of a run."""
    row = run.last() or {"step": 0}
    steps = None if run.is_open else run.steps
    sharp, edge = row.get("lambda_1"), row.get("edge")
    over = f"{sharp / edge:.2f}" if is_number(sharp) and is_number(edge) and edge else "-"
    left = "-"
    if steps and row["step"] and is_number(row.get("seconds")):
        left = describe_time(row["seconds"] / row["step"] * (steps - row["step"]))
    step = f"{row['step']}/{steps or '?'}"
    return [printable(run.name), step, number(row.get("train_loss")), number(sharp), over, left]


def _under_way(folder: Path) -> Iterator[Run]:
    """The unfinished runs that a process holds; where the system does not tell, those written to lately."""
    locks = _locked()
    for run in in_directory(folder, lambda message: None):
        try:
            files = [run.path / name for name in (".lock", "metrics.jsonl")]
            stats = [file.stat() for file in files if file.exists()]
            lately = bool(stats) and time.time() - max(stat.st_mtime for stat in stats) < LATELY
            held = lately if locks is None else bool(stats) and stats[0].st_ino in locks
            if held and run.status == "unfinished":
                yield run
        except (Refusal, OSError):
            continue


def _locked() -> set[int] | None:
    """The inodes that some process has locked; None where the system does not tell. To try a lock would keep
    a run that begins at that moment from it."""
    try:
        lines = Path("/proc/locks").read_text().splitlines()
        return {int(line.split()[5].rpartition(":")[2]) for line in lines if "->" not in line}
    except (OSError, ValueError, IndexError):
        return None
