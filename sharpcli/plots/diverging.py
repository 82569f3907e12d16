"""Runs that diverged, in pictures of runs that did not: a loss of 1e37 would press every other curve to the
axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from sharpcli.plots import Drawn, having

ROOM = 1.3  # above and below the curves on a logarithmic axis, as a factor


def diverged(frame: pd.DataFrame) -> set[str]:
    """The names of the runs that diverged."""
    return set(frame.loc[frame["diverged"].eq(True), "run"]) if "diverged" in frame else set()


def leave_room(ax: Axes, runs: Sequence[Drawn], columns: Sequence[str], ended: set[str]) -> None:
    """Where some of the `runs` have `ended` by diverging and others not, fits the y axis to the `columns` of
    the others."""
    calm = [rows[[c for c in columns if c in rows]] for run, rows in _by_name(runs) if run not in ended]
    values = pd.concat(calm).to_numpy(float) if calm else np.empty(0)
    values = values[np.isfinite(values)]
    if not values.size or all(run not in ended for run, _ in _by_name(runs)):
        return
    low, high = float(values.min()), float(values.max())
    if ax.get_yscale() == "log":
        ax.set_ylim(low / ROOM, high * ROOM)
    else:
        room = 0.05 * (high - low) or 1.0
        ax.set_ylim(low - room, high + room)


def mark(ax: Axes, runs: Sequence[Drawn], x: str, column: str, ended: set[str]) -> None:
    """A cross at the last value of each of the `runs` that has `ended` by diverging, or where that is above
    the picture at its upper edge."""
    top, label = ax.get_ylim()[1], "diverged"
    for look, _, rows in runs:
        last = having(rows, column).tail(1)
        if len(last) and last["run"].iloc[0] in ended:
            at, colour = last[column].clip(upper=top), look["color"]
            ax.plot(last[x], at, "x", color=colour, label=label, clip_on=False, zorder=3)
            label = ""


def _by_name(runs: Sequence[Drawn]) -> list[tuple[str, pd.DataFrame]]:
    return [(str(rows["run"].iloc[0]), rows) for _, _, rows in runs if len(rows)]
