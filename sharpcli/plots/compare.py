"""One quantity of several runs: its mean over the seeds, with a band of one standard deviation."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import AXIS_LABELS, PALETTE, figure, label

LINE_STYLES = ("-", "--", ":")  # the next one each time that the colours are used up


def compare(frame: pd.DataFrame, *, x: str, y: str, by: list[str], log: bool) -> Figure:
    """`y` over `x`: for each group of runs that agree in the settings `by` the mean over its runs (seeds),
    and a band of one standard deviation to either side; a group of one run has no band. `log` makes the y
    axis logarithmic. Refuses a setting or a column that the runs lack."""
    for key in (x, y, *by):
        if key not in frame:
            possible = sorted(str(c) for c in frame if frame[c].notna().any())
            raise Refusal(f"{key}: no such column in these runs; possible: {', '.join(possible)}")
    fig, (ax,) = figure()
    rows = frame[frame[y].notna()]
    for i, (_, group) in enumerate(rows.groupby(by, sort=True, dropna=False)):
        over_runs = group.groupby(x)[y].agg(["mean", "std"])
        mean, std = over_runs["mean"], over_runs["std"]
        runs = group["run"].nunique()
        name = label(group, by) + (f" ({runs} runs)" if runs > 1 else "")
        colour = PALETTE[i % len(PALETTE)]
        style = LINE_STYLES[i // len(PALETTE) % len(LINE_STYLES)]
        ax.plot(mean.index, mean, color=colour, label=name, linewidth=1.2, linestyle=style)
        ax.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
    ax.set(xlabel=AXIS_LABELS.get(x, x), ylabel=AXIS_LABELS.get(y, y), yscale="log" if log else "linear")
    ax.legend(frameon=False, fontsize=8)
    return fig
