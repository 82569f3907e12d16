"""One quantity of several runs: its mean over the seeds, with a band of one standard deviation."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import column, figure, label, legend, log_axis, seeds_of, seen, style, title
from sharpcli.plots.diverging import diverged

FAINT = 0.35  # opacity where a curve is the mean of fewer runs than it has


def compare(frame: pd.DataFrame, *, x: str, y: str, by: list[str], log: bool) -> Figure:
    """`y` over `x`, which may be expressions in the columns: for each group of runs that agree in the
    settings `by` the mean over its runs (seeds), and a band of one standard deviation to either side; a group
    of one run has no band. Where some runs of a group have ended the mean is faint. Accuracies stay within 0
    and 1. `log` makes the y axis logarithmic; a group with a run that diverged says so, and does not set the
    axis where others did not.

    Only seeds are averaged: refuses groups of runs that differ in anything else, with the settings to add to
    `by`; `by=[]` draws all runs as one group. Refuses a setting or a column that the runs lack."""
    rows = frame.assign(_x=column(frame, x), _y=column(frame, y)).dropna(subset=["_x", "_y"])
    if rows.empty:
        raise Refusal(f"y={y}: no row of these runs has a value of it over {x}")
    groups = seeds_of(rows, by, ", or all as one curve by by=[]")
    ended = diverged(frame)
    calm: list[float] = []  # the ends of the bands of groups without a run that diverged
    fig, (ax,) = figure()
    for i, group in enumerate(groups):
        over_runs = group.groupby("_x")["_y"].agg(["mean", "std", "count"])
        mean, std, count = over_runs["mean"], over_runs["std"], over_runs["count"]
        runs = group["run"].nunique()
        seeds = f" ({runs} runs)" if runs > 1 else ""
        if gone := len(ended & set(group["run"])):
            seeds += f", {gone} diverged" if runs > 1 else ", diverged"
        look = {**seen(style(i), len(over_runs)), "linewidth": 1.2}
        whole = mean.where(count == runs)
        ax.plot(mean.index, whole, label=(label(group, by) or "all") + seeds, **look)
        if not whole.notna().all():
            ax.plot(mean.index, mean, alpha=FAINT, **look)
            last = int(count.iloc[-1])
            ax.annotate(
                f"{last} of {runs}", (mean.index[-1], mean.iloc[-1]), fontsize="x-small", color=look["color"]
            )
        low, high = mean - std, mean + std
        if y.endswith("accuracy"):
            low, high = low.clip(0, 1), high.clip(0, 1)
        if not gone:
            calm += [float(low.fillna(mean).min()), float(high.fillna(mean).max())]
        ax.fill_between(mean.index, low, high, color=look["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel=title(x), ylabel=title(y))
    if log:
        log_axis(ax, "y")
    elif ended and calm:
        room = 0.05 * (max(calm) - min(calm)) or 1.0
        ax.set_ylim(min(calm) - room, max(calm) + room)
    legend(ax)
    return fig
