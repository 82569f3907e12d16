"""Runs as a frame: a row for each run and measured step, with the run's settings."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.config.identity import dotted
from sharpcli.config.methods import shown_method
from sharpcli.errors import Refusal
from sharpcli.jsonl import Row, read_rows
from sharpcli.run import Run, labels, score_names

if TYPE_CHECKING:
    import pandas as pd

Complain = Callable[[str], Any]
NEAREST = 10  # columns that a message names


def frame_of(runs: Sequence[Run], complain: Complain | None = None, of_layers: bool = False) -> pd.DataFrame:
    """One row a run and step: the logged and measured columns, and the run's settings by their dotted names;
    in the column `scores` the names of the scores that the problem reports. `attrs` holds the names of the
    `settings`, and `notes` of what was left out. With `of_layers` also the rows of single layers or
    parameters, whose names are in the column `params`.

    Refuses a run that cannot be read, whose rows are damaged or whose config was changed. With `complain`
    such a run is left out instead, and `complain` is told why.
    """
    import pandas as pd

    records: list[dict[str, Any]] = []
    notes: list[str] = []
    settings: dict[str, None] = {}  # in their order
    for run in runs:
        try:
            of_run = settings_of(run)
            records += _records(run, of_run, complain, notes.append)
            if of_layers:
                records += [of_run | {"run": run.name} | row for row in run.of_layers(complain or _refuse)]
            settings |= dict.fromkeys(of_run)
        except Refusal as problem:
            if complain is None:
                raise
            complain(f"{problem}; left out")
    frame = pd.DataFrame(records)
    frame.attrs = {"settings": list(settings), "notes": notes}
    return frame


def frame_of_file(file: Path) -> pd.DataFrame:
    """The rows of a file that `sharp measure -o` wrote; `run` is the run's name or the path of the weights,
    with the parameters where only some were measured. Refuses a line that is no row."""
    import pandas as pd

    rows, wrong = read_rows(file)
    if wrong:
        raise Refusal(f"{wrong}; remove the line")
    joined: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:  # each measure wrote a row of its own
        of = " ".join(str(row[key]) for key in ("run", "file", "params") if key in row)
        values = {key: value for key, value in row.items() if key not in ("provenance", "file")}
        at = joined.setdefault((of, row["step"]), {"scores": ""})
        at |= values | {"run": of}
    return pd.DataFrame(list(joined.values()))


def meeting(frame: pd.DataFrame, condition: str, needs_rows: bool = True) -> pd.DataFrame:
    """The rows that meet a condition on their columns, such as `method == 'sam' and lr > 0.01`. Refuses an
    unknown column, what is no condition, and where it `needs_rows` a condition that no row meets."""
    names = {str(name): f"`{name}`" for name in frame.columns if "." in str(name)}
    quoted = re.sub(r"[A-Za-z_][\w.]*", lambda word: names.get(word[0], word[0]), condition)
    try:
        met: Any = frame.eval(quoted, engine="python")
    except Exception as problem:  # pandas raises exceptions of many kinds for what it cannot read
        if name := re.search(r"name '([^']+)' is not defined", str(problem)):
            raise unknown(frame, name[1]) from None
        raise Refusal(f"where {condition}: cannot be read ({str(problem)[:100]})") from None
    if str(getattr(met, "dtype", "")) != "bool":
        raise Refusal(f'where {condition}: is no condition; give one, as in where "lr > 0.01"')
    if needs_rows and not met.any():
        raise Refusal(f"where {condition}: no run meets it; sharp ls lists the runs")
    out = frame[met]
    out.attrs = frame.attrs
    return out


def unknown(frame: pd.DataFrame, name: str) -> Refusal:
    """The refusal of a column that no run has, with the nearest that some have."""
    known = [str(c) for c in frame if frame[c].notna().any()]
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.0)
    return Refusal(f"{name}: no such column in these runs; the nearest: {', '.join(near)}")


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run by their dotted names, a list as text; `method` as tables and figures show it.
    Refuses a config that was changed, or is that of no run."""
    run.refuse_altered(quick=True)
    config = run.config
    try:
        settings = {key: str(v) if isinstance(v, list) else v for key, v in dotted(config).items()}
        settings["problem"] = config["problem"]["_target_"].rsplit(".", 1)[-1]
        if "optimizer" in config:  # not in a loop of a user's own, which was watched
            settings["method"] = shown_method(config)
        for part in ("model", "data"):
            if isinstance(chosen := config.get(part), dict) and "_target_" in chosen:
                settings[part] = chosen["_target_"].rsplit(".", 1)[-1]
    except (KeyError, TypeError, ValueError, AttributeError) as problem:  # yaml, but the config of no run
        raise Refusal(
            f"{run.path}/config.yaml: of no run ({type(problem).__name__}: {problem}); restore it"
        ) from None
    said = labels(run.path)
    return settings | {"tags": " ".join(said["tags"]), "note": said["note"]}


def _records(
    run: Run, settings: dict[str, Any], complain: Complain | None, note: Complain
) -> list[dict[str, Any]]:
    """The rows of a run for a frame."""
    if wrong := run.damage():
        raise Refusal(f"{wrong}; the command that made the run mends it")
    about = settings | {"run": run.name, "scores": " ".join(score_names(run))}
    out = []
    for row in _of_a_kind(run, run.rows(complain or _refuse, note)):
        name = {"run": f"{run.name}#{row['replica']}"} if "replica" in row else {}
        out.append(about | row | name)
    return out


def _of_a_kind(run: Run, rows: list[Row]) -> list[Row]:
    """The rows, in each column either numbers or words; refuses a column of both, as after a damage."""
    kinds: dict[str, type] = {}
    for row in rows:
        for name, value in row.items():
            if value is None:
                continue
            kind = float if isinstance(value, bool | int | float) else type(value)
            if kinds.setdefault(name, kind) is not kind:
                raise Refusal(f"{run.path}: {name} is {value!s:.60} at step {row['step']} and else a number")
    return rows


def _refuse(message: str) -> None:
    raise Refusal(f"{message}; remove the line")
