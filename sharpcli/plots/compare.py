"""One quantity over several runs: the mean over seeds, and a band."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import NAMES, PALETTE, figure, label


def compare(frame: pd.DataFrame, *, x: str, y: str, by: list[str], log: bool) -> Figure:
    """For each group of runs equal in the settings `by` the mean of `y` over its runs (seeds) and a band of
    one standard deviation to either side; single runs have no band. Refuses a setting or a column that the
    runs lack.
    """
    for key in (x, y, *by):
        if key not in frame:
            possible = sorted(str(c) for c in frame if frame[c].notna().any())
            raise Refusal(f"{key}: no such column in these runs; possible: {', '.join(possible)}")
    fig, (ax,) = figure()
    rows = frame[frame[y].notna()]
    for i, (_, group) in enumerate(rows.groupby(by, sort=True, dropna=False)):
        over = group.groupby(x)[y].agg(["mean", "std", "count"])
        runs = group["run"].nunique()
        colour = PALETTE[i % len(PALETTE)]
        name = label(group, by) + (f" ({runs} runs)" if runs > 1 else "")
        ax.plot(
            over.index,
            over["mean"],
            color=colour,
            label=name,
            linewidth=1.2,
            linestyle=("-", "--", ":")[i // len(PALETTE) % 3],
        )
        ax.fill_between(
            over.index,
            over["mean"] - over["std"],
            over["mean"] + over["std"],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    ax.set(xlabel=NAMES.get(x, x), ylabel=NAMES.get(y, y), yscale="log" if log else "linear")
    ax.legend(frameon=False, fontsize=8)
    return fig
