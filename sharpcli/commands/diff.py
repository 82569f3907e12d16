"""`sharp diff A B`: the settings in which two runs differ, their last numbers side by side, and the first
step at which their rows part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpcli.commands.report import ABOUT_A_VALUE, OF_LOOP, aligned, complain, number
from sharpcli.config.identity import dotted
from sharpcli.errors import Refusal, printable
from sharpcli.jsonl import Row, is_number
from sharpcli.run import Run, last_of
from sharpcli.runs_dir import find


def diff(names: Sequence[str], runs_dir: Path) -> list[str]:
    """The lines that `sharp diff` prints. Refuses other than two runs."""
    if len(names) != 2:
        raise Refusal(f"sharp diff takes two runs; got {len(names)}; sharp ls lists the runs")
    runs = [find(name, runs_dir) for name in names]
    for run in runs:
        run.refuse_altered(quick=True)
        if wrong := run.damage():
            complain(f"{wrong}; the command that made the run mends it")
    first, second = runs
    heads = ["", *(printable(run.name) for run in runs)]
    settings = _different(*(dotted(run.config) for run in runs))
    out = ["same settings"] if not settings else aligned([["setting", *heads[1:]], *settings], 1)
    rows = [run.rows(complain) for run in runs]
    last = [last_of(of_run) or {"step": 0} for of_run in rows]
    numbers = [
        [key, number(last[0].get(key)), number(last[1].get(key))]
        for key in dict.fromkeys([*last[0], *last[1]])
        if key == "step" or _is_value(key, last)
    ]
    return [*out, "", *aligned([["last row", *heads[1:]], *numbers], 1), "", parting(first, second, *rows)]


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[list[str]]:
    """A row of cells for each setting in which two configs differ; a dash for one that a config lacks."""
    keys = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    return [[key, *(printable(str(of.get(key, "-"))) for of in (a, b))] for key in keys]


def _is_value(key: str, rows: Sequence[Row]) -> bool:
    """Whether a column holds what was measured, and not an error, a cost or the loop's own."""
    of_loop = key in OF_LOOP and key != "lambda_1"
    return not of_loop and not key.endswith(ABOUT_A_VALUE) and any(is_number(row.get(key)) for row in rows)


def parting(a: Run, b: Run, rows_a: Sequence[Row], rows_b: Sequence[Row]) -> str:
    """In a line, the first step at which the rows of two runs have other numbers, of those that both have."""
    of_b = {(row["step"], row.get("replica", 0)): row for row in rows_b}
    compared = 0
    for row in rows_a:
        other = of_b.get((row["step"], row.get("replica", 0)))
        if other is None:
            continue
        compared += 1
        for key in row:
            if key in other and _is_value(key, (row,)) and row[key] != other[key]:
                return (
                    f"the rows part at step {row['step']}: {key} {number(row[key])} and {number(other[key])}"
                )
    if not compared:
        return f"no step is measured in both: {printable(a.name)} and {printable(b.name)}"
    if compared == 1:
        return "the rows are the same at the only step that both have"
    return f"the rows are the same at all {compared} steps that both have"
