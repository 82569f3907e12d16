"""`sharp ls`: the runs of a directory that meet a condition, in an order, with the columns asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sharpcli.commands.report import aligned, complain, number
from sharpcli.errors import Refusal, printable
from sharpcli.run import Run, in_directory

COLUMNS = ("run", "status", "step", "train_loss", "test_accuracy", "lambda_1")
OPTIONS = ("sort", "columns", "runs_dir")


def ls(folder: Path, where: str | None, overrides: Sequence[str], as_json: bool) -> list[str]:
    """The lines that `sharp ls` prints. Refuses a folder that is none, a setting that it does not take, and a
    column that no run has."""
    given = dict(_option(override) for override in overrides)
    if not folder.is_dir():
        raise Refusal(
            f"{folder}: no such directory; sharp train makes runs, and runs_dir= or SHARP_RUNS names where "
            f"they are"
        )
    columns = given.get("columns", "").strip("[]").replace(" ", "").split(",") if "columns" in given else []
    # reading the settings of a run takes its config: only where they are asked for
    whole = bool(where or given.get("sort") or columns or as_json)
    rows = [row for run in in_directory(folder, complain) if (row := record(run, whole)) is not None]
    if not rows:
        return [] if as_json else [f"{folder}: no runs yet; sharp train makes one"]
    if where or given.get("sort") or columns:
        rows = _chosen(rows, where, given.get("sort", ""), columns)
    if as_json:
        return [json.dumps({key: _plain(value) for key, value in row.items()}) for row in rows]
    shown = ["run", "status", "step", *columns] if columns else list(COLUMNS)
    cells = [[_cell(key, row) for key in dict.fromkeys(shown)] for row in rows]
    return aligned([list(dict.fromkeys(shown)), *cells])


def record(run: Run, whole: bool, complain: Callable[[str], Any] = complain) -> dict[str, Any] | None:
    """What is known of a run: its name, its status, `step` of `steps`, its last row, and where `whole` its
    settings by their dotted names. Complains of a run that was changed or is damaged, whose status is then
    that, and of one that cannot be read, which is None."""
    try:
        last = run.last()
        status = run.status_after(last)
        if wrong := run.altered(quick=True):
            complain(f"{run.path}: changed after the run was made: {wrong}")
            status = "changed"
        elif wrong := run.damage():
            complain(f"{wrong}; the command that made the run mends it")
            status = "damaged"
        settings: dict[str, Any] = {}
        if whole and status != "changed":
            from sharpcli.frames import settings_of

            settings = settings_of(run)
        steps = None if run.is_open else run.steps
    except Refusal as problem:
        complain(f"{problem}; left out")
        return None
    return {**settings, **(last or {"step": 0}), "run": run.name, "status": status, "steps": steps}


def _option(override: str) -> tuple[str, str]:
    key, _, value = override.partition("=")
    if key not in OPTIONS:
        raise Refusal(f"{override}: sharp ls takes {', '.join(f'{name}=' for name in OPTIONS)} and where")
    return key, value


def _chosen(
    rows: list[dict[str, Any]], where: str | None, sort: str, columns: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows that meet a condition, in the order of a column: `sort=-lambda_1` from the largest."""
    import pandas as pd

    from sharpcli.frames import meeting, unknown

    frame = pd.DataFrame(rows).assign(number=range(len(rows)))
    if where:
        frame = meeting(frame, where)
    for key in [*columns, *([sort.lstrip("-")] if sort else [])]:
        if key not in frame:
            raise unknown(frame, key)
    if sort:
        frame = frame.sort_values(
            sort.lstrip("-"), ascending=not sort.startswith("-"), kind="stable", na_position="last"
        )
    return [rows[i] for i in frame["number"]]


def _cell(key: str, row: dict[str, Any]) -> str:
    if key == "step":
        return f"{row['step']}/{'?' if row['steps'] is None else row['steps']}"
    return printable(row["run"]) if key == "run" else number(row.get(key))


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str | list) else str(value)
