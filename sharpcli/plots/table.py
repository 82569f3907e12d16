"""Final values by setting: the mean over seeds and its standard deviation, as a table."""

from __future__ import annotations

import pandas as pd

from sharpcli.errors import Refusal
from sharpcli.plots import finals, seeds_of, settings, telling

DEFAULT = ("train_loss", "test_loss", "test_accuracy", "recovery_error", "lambda_1", "trace")


def table(frame: pd.DataFrame, *, columns: list[str] | None, by: list[str] | None) -> pd.DataFrame:
    """A row for each group of runs that agree in the settings `by` (all that tell the runs apart, by
    default), and for each of the `columns` (expressions too; the scores and the sharpness, by default) the
    mean of its final values over the runs in `NAME` and their standard deviation, with n - 1, in `NAME_sd`,
    which a single run does not have. `runs` is the number of runs, `diverged` and `unfinished` that of those
    whose numbers are left out since they diverged, or go on beside others that have ended.

    Only seeds are averaged: refuses groups that differ in anything else, and columns that no run has."""
    if columns is None:
        scores = [name for text in frame["scores"].dropna().unique() for name in str(text).split()]
        names = [name for name in dict.fromkeys([*scores, *DEFAULT]) if name in frame]
        columns = [name for name in names if frame[name].notna().any()]
    ends = finals(frame, columns)
    keys = telling(ends, apart_from=["seed"]) or settings(ends)[:1] if by is None else by
    if not columns:
        raise Refusal("columns=[]: a table needs a column; sharp show columns lists them")
    rows = []
    for group in seeds_of(ends, keys, ""):
        row = {key: group[key].iloc[0] for key in keys} | {"runs": len(group)}
        for word in ("diverged", "unfinished"):
            if ends[word].any():
                row[word] = int(group[word].sum())
        for name in columns:
            row |= {name: group[name].mean(), f"{name}_sd": group[name].std(ddof=1)}
        rows.append(row)
    return pd.DataFrame(rows)
