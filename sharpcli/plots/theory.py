"""Measured numbers beside what theory says of them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from sharpcli.plots import NAMES, PALETTE, figure


def theory(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    line: str | None,
    parts: list[str],
    log: list[str],
    only_last: bool,
) -> Figure:
    """`y` over `x`, expressions in the columns, one colour a part (all, or those in `parts`) and one curve a
    run with a dot at its end, or with `only_last` the dot alone; the theory's `line` over the same x in
    black. `log` names the axes that are logarithmic."""
    fig, (ax,) = figure()
    names = parts or sorted(frame["part"].unique())
    for i, name in enumerate(names):
        rows = frame[frame["part"] == name]
        rows = rows.assign(x=column(rows, x), y=column(rows, y)).dropna(subset=["x", "y"])
        colour = PALETTE[i % len(PALETTE)]
        if only_last:
            ends = rows.groupby("run").tail(1)
            ax.plot(ends["x"], ends["y"], "o", color=colour, label=name, markersize=4, alpha=0.7)
        else:
            for j, (_, curve) in enumerate(rows.groupby("run", sort=False)):
                ax.plot(
                    curve["x"],
                    curve["y"],
                    color=colour,
                    label=name if j == 0 else None,
                    linewidth=0.9,
                    alpha=0.7,
                )
                ax.plot(
                    curve["x"].iloc[-1:], curve["y"].iloc[-1:], "o", color=colour, markersize=2.5, alpha=0.7
                )
        if line is not None and i == 0:
            predicted = rows.assign(t=column(rows, line)).sort_values("x")
            if predicted["t"].nunique() == 1:  # a level, for all parts
                ax.axhline(
                    predicted["t"].iloc[0],
                    color="black",
                    linestyle="--",
                    linewidth=1,
                    label="theory",
                    zorder=5,
                )
            else:
                ax.plot(
                    predicted["x"],
                    predicted["t"],
                    color="black",
                    linestyle="--",
                    linewidth=1,
                    label="theory",
                    zorder=5,
                )
    ax.set(xlabel=NAMES.get(x, x), ylabel=NAMES.get(y, y))
    ax.set(**{f"{axis}scale": "log" for axis in log})
    for axis in log:  # 4, not 4 x 10^0: between powers of ten the long form runs into its neighbour
        getattr(ax, f"{axis}axis").set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    ax.legend(frameon=False, fontsize=8)
    return fig


def column(rows: pd.DataFrame, value: str) -> pd.Series:
    """An expression in the columns, or a number, for every row."""
    values: Any = rows.eval(value, engine="python")
    return values if isinstance(values, pd.Series) else pd.Series(float(values), index=rows.index)
