"""Columns over training, an axes for each group of them: what several plots of measures share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpcli.plots import column, curves, figure, ink, legend, seen, style, title

LINES = ("-", "--", ":", "-.")  # of the columns of an axes, where colours tell the runs apart
ERRORS = ("_stderr", "_error")  # what ends the name of a column that holds another's error


def panels(
    frame: pd.DataFrame, x: str, groups: Sequence[Sequence[str]], names: Sequence[str]
) -> tuple[Figure, list[Axes]]:
    """Each group of columns over `x`, an axes for each with its name, and a band of two of a column's errors
    to either side where the runs state one. The colour is the run's and the line the column's; of a single
    run the colour is the column's. Groups that no run has are left out."""
    kept = [
        ([name for name in group if name in frame and frame[name].notna().any()], said)
        for group, said in zip(groups, names, strict=True)
    ]
    kept = [(group, said) for group, said in kept if group]
    has = frame[[name for group, _ in kept for name in group]].notna().any(axis=1)
    drawn = frame["run"].isin(frame["run"][has].unique())  # a legend must name no run that has no curve
    frame, attrs = frame[drawn], frame.attrs
    frame.attrs = attrs
    rows = frame.assign(_x=column(frame, x))
    fig, axes = figure(len(kept))
    several = frame["run"].nunique() > 1
    if not several:
        axes[0].set_title(frame["run"].iloc[0], fontsize="small")
    for ax, (group, said) in zip(axes, kept, strict=True):
        for i, name in enumerate(group):
            line = LINES[i % len(LINES)] if several else "-"
            for look, run, of_run in curves(rows, name):
                look = look if several else seen(style(i), len(of_run))
                label = (run if ax is axes[0] and i == 0 else None) if several else title(name)
                ax.plot(of_run["_x"], of_run[name], line, label=label, linewidth=1.2, **look)
                _band(ax, of_run, name, look["color"])
            if several and len(group) > 1:
                ax.plot([], [], line, color=ink(), label=title(name), linewidth=1)
        ax.set(ylabel=said)
        if several or len(group) > 1:
            legend(ax)
    axes[-1].set_xlabel(title(x))
    return fig, axes


def _band(ax: Axes, rows: pd.DataFrame, name: str, colour: str) -> None:
    """Two stated errors to either side of a curve."""
    for ending in ERRORS:
        if f"{name}{ending}" in rows:
            low, high = (rows[name] + sign * 2 * rows[f"{name}{ending}"] for sign in (-1, 1))
            if np.isfinite(low.astype(float)).any():
                ax.fill_between(rows["_x"], low, high, color=colour, alpha=0.2, linewidth=0)
