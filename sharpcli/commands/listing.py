"""`sharp ls`: the runs of a directory that meet a condition, in an order, with the columns asked for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpcli.commands.index import records
from sharpcli.commands.report import aligned, complain, number
from sharpcli.config.paths import is_file
from sharpcli.errors import Refusal, printable

FIRST, LAST = ("run", "status", "step"), ("train_loss", "test_accuracy", "lambda_1")
KNOWN_BY = ("method", "problem", "model", "data", "lr", "seed", "tags")  # settings that come first
MOST_SETTINGS = 6  # that differ, in the list
MOST_TELLING = 4  # of them, and beyond their number, that are shown since they tell runs apart
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
    rows = records(folder, complain)
    if not rows and is_file(folder / "config.yaml"):
        raise Refusal(
            f"{folder}: is a run, and sharp ls takes a folder of runs; sharp show {folder} shows it"
        )
    if not rows:
        return [] if as_json else [f"{folder}: no runs yet; sharp train makes one"]
    if where or given.get("sort") or columns:
        rows = _chosen(rows, where, given.get("sort", ""), columns)
    if as_json:
        plain = [{k: _plain(v) for k, v in row.items() if k != "settings"} for row in rows]
        return [json.dumps(row, sort_keys=True) for row in plain]
    shown = ["run", "status", "step", *columns] if columns else [*FIRST, *_differing(rows), *LAST]
    cells = [[_cell(key, row) for key in dict.fromkeys(shown)] for row in rows]
    return aligned([list(dict.fromkeys(shown)), *cells])


def _differing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The settings in which runs differ: those that a reader knows a run by, then those that tell more runs
    apart, and others while there is room."""
    names: dict[str, None] = {}
    for known in {id(row["settings"]): row["settings"] for row in rows}.values():
        names |= dict.fromkeys(known)
    first = [key for key in KNOWN_BY if key in names]
    others = [key for key in names if key not in KNOWN_BY and not key.endswith("_target_")]

    def differ(key: str) -> bool:
        value = rows[0].get(key)
        return any(row.get(key) != value for row in rows)

    out, others = [key for key in first if differ(key)], [key for key in others if differ(key)]
    groups, telling = len({_values(row, out) for row in rows}), list[str]()
    for key in others:
        if groups == len(rows) or len(telling) == MOST_TELLING:
            break
        more = len({_values(row, [*out, *telling, key]) for row in rows})
        if groups < more:
            telling, groups = [*telling, key], more
    rest = [key for key in others if key not in telling]
    return [*out, *telling, *rest[: max(0, MOST_SETTINGS - len(out) - len(telling))]]


def _values(row: dict[str, Any], keys: Sequence[str]) -> str:
    """The settings of a row as text, by which rows are told apart."""
    return repr([row.get(key) for key in keys])


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
