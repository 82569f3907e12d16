"""Runs as a frame: a row for each run and measured step, with the run's settings."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sharpcli.config.identity import dotted
from sharpcli.config.methods import shown_method
from sharpcli.errors import Refusal, unknown_column
from sharpcli.jsonl import Row, read_rows
from sharpcli.run import Run, labels, score_names

if TYPE_CHECKING:
    import pandas as pd

Complain = Callable[[str], Any]
T = TypeVar("T")
CONDITION = 'give a condition on columns, as in where "lr > 0.01"'


class Names(tuple[str, ...]):
    """Names in `attrs`, which pandas copies deeply at every step: in vain, since they do not change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Names:
        return self


class RunRows(NamedTuple):
    """A run, its settings by their dotted names, and its rows."""

    run: Run
    settings: Mapping[str, Any]
    rows: list[Row]


def frame_of(
    runs: Sequence[Run],
    complain: Complain | None = None,
    of_layers: bool = False,
    logged_only: bool = False,
) -> pd.DataFrame:
    """One row a run and step: the logged and measured columns, and the run's settings by their dotted names;
    in the column `scores` the names of the scores that the problem reports. `attrs` holds the names of the
    `settings`, `notes` of what was left out, and the names of the runs that are `unfinished`. With
    `of_layers` also the rows of single layers or parameters, whose names are in the column `params`;
    `logged_only` leaves out what was measured later.

    Refuses a run that cannot be read, whose rows are damaged or whose config was changed. With `complain`
    such a run is left out instead, and `complain` is told why.
    """
    import pandas as pd

    told = complain or _refuse
    notes: list[str] = []

    def gathered(run: Run) -> RunRows:
        settings = settings_of(run)
        rows = run.logged() if logged_only else run.rows(told, notes.append)
        if wrong := run.damage():  # after the rows, which are read then
            raise Refusal(f"{wrong}; the command that made the run mends it")
        return RunRows(run, settings, rows + (run.of_layers(told) if of_layers else []))

    of_runs = _without_refused(gathered, runs, complain)
    measured = pd.DataFrame([row for of in of_runs for row in of.rows])
    if any(_may_be_mixed(measured[name]) for name in measured):
        of_runs = _without_refused(_unmixed, of_runs, complain)
        measured = pd.DataFrame([row for of in of_runs for row in of.rows])
    frame = pd.DataFrame() if measured.empty else _joined(of_runs, measured)
    settings = dict.fromkeys(name for of in of_runs for name in of.settings)
    unfinished = Names(of.run.name for of in of_runs if not of.run.is_open and of.run.status == "unfinished")
    frame.attrs = {"settings": Names(settings), "notes": notes, "unfinished": unfinished}
    return frame


def _without_refused(
    make: Callable[[T], RunRows], items: Sequence[T], complain: Complain | None
) -> list[RunRows]:
    """What is made of each item. The first that is refused is raised, or with `complain` each is left out."""
    out = []
    for item in items:
        try:
            out.append(make(item))
        except Refusal as problem:
            if complain is None:
                raise
            complain(f"{problem}; left out")
    return out


def _joined(of_runs: Sequence[RunRows], measured: pd.DataFrame) -> pd.DataFrame:
    """The columns of the rows beside those of their runs, the latter built for a run once. Where a row has a
    value of its own (the lr of a replica), that counts."""
    import numpy as np
    import pandas as pd

    of_all = [
        ({**of.settings, "run": of.run.name, "scores": " ".join(score_names(of.run))}, of.rows)
        for of in of_runs
        if of.rows
    ]
    about = pd.DataFrame([shared for shared, _ in of_all])
    about = about.take(np.repeat(range(len(of_all)), [len(rows) for _, rows in of_all]))
    about = about.reset_index(drop=True)
    for name in [str(name) for name in about if name in measured]:
        about[name] = [row.get(name, shared.get(name, math.nan)) for shared, rows in of_all for row in rows]
    if "replica" in measured:
        about["run"] = [
            f"{shared['run']}#{row['replica']}" if "replica" in row else shared["run"]
            for shared, rows in of_all
            for row in rows
        ]
    return pd.concat([about, measured.drop(columns=list(about), errors="ignore")], axis=1)


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
    _refuse_mixed(out := list(joined.values()), file)
    return pd.DataFrame(out)


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
        said = str(problem).partition(" (<unknown>")[0][:100]
        said = "an operator that columns do not have" if "has no attribute" in said else said
        raise Refusal(f"where {condition}: cannot be read ({said}); {CONDITION}") from None
    if str(getattr(met, "dtype", "")) != "bool":
        raise Refusal(f"where {condition}: is no condition; {CONDITION}")
    if needs_rows and not met.any():
        raise Refusal(f"where {condition}: no run meets it; sharp ls lists the runs")
    out = frame[met]
    out.attrs = frame.attrs
    return out


def unknown(frame: pd.DataFrame, name: str) -> Refusal:
    """The refusal of a column that no run has, with the nearest that some have."""
    known = [str(c) for c in frame if frame[c].notna().any() and not str(c).startswith("_")]
    about = {"run", "scores", "part", "step", "epoch", *frame.attrs.get("settings", ())}
    return unknown_column(name, sorted(known, key=lambda column: column in about))  # what is measured first


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


def _may_be_mixed(column: pd.Series[Any]) -> bool:
    """Whether a column may hold both numbers and words: one that is not of numbers, of words, or of truth
    values alone."""
    import pandas as pd

    alone = ("string", "boolean")
    return column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) not in alone


def _unmixed(of: RunRows) -> RunRows:
    """The same. Refuses a column of both numbers and words."""
    _refuse_mixed(of.rows, of.run.path)
    return of


def _refuse_mixed(rows: Sequence[Row], of: Path) -> None:
    """Refuses rows that have both numbers and words in a column, as after a damage."""
    seen: set[tuple[str, type]] = set()
    for row in rows:
        seen.update(zip(row, map(type, row.values()), strict=True))
    kinds: dict[str, set[type]] = {}
    for name, kind in seen:
        if kind is not type(None):
            kinds.setdefault(name, set()).add(float if issubclass(kind, int) else kind)
    for name in (name for name in kinds if len(kinds[name]) > 1):
        others = "a number" if float in kinds[name] else "of another kind"
        for row in rows:
            if not isinstance(value := row.get(name), int | float | None):
                raise Refusal(f"{of}: {name} is {value!s:.60} at step {row['step']} and else {others}")


def _refuse(message: str) -> None:
    raise Refusal(f"{message}; remove the line")
