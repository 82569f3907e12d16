"""Measured numbers, and the curve that theory predicts for them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import AXIS_LABELS, PALETTE, column, figure, legend, log_axis

THEORY_LINE: dict[str, Any] = {
    "color": "black",
    "linestyle": "--",
    "linewidth": 1,
    "label": "theory",
    "zorder": 5,
}


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
    """`y` over `x`, which are expressions in the columns: one colour for each of the claim's parts (for those
    in `parts`, if any), one curve for each run with a dot at its end, or the dot alone with `only_last`. The
    theory's `line`, an expression too, is drawn in black over the x of the first part. `log` names the axes
    that are logarithmic."""
    fig, (ax,) = figure()
    names = parts or sorted(frame["part"].unique())
    for i, name in enumerate(names):
        rows = frame[frame["part"] == name]
        rows = rows.assign(x=column(rows, x), y=column(rows, y)).dropna(subset=["x", "y"])
        style: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "alpha": 0.7}
        if only_last:
            ends = rows.groupby("run").tail(1)
            ax.plot(ends["x"], ends["y"], "o", label=name, markersize=4, **style)
        else:
            for j, (_, curve) in enumerate(rows.groupby("run", sort=False)):
                ax.plot(curve["x"], curve["y"], label=name if j == 0 else None, linewidth=0.9, **style)
                ax.plot(curve["x"].iloc[-1:], curve["y"].iloc[-1:], "o", markersize=2.5, **style)
        if line is not None and i == 0:
            predicted = rows.assign(theory=column(rows, line)).sort_values("x")
            if predicted["theory"].nunique() == 1:  # a constant is drawn over the x of all parts
                ax.axhline(predicted["theory"].iloc[0], **THEORY_LINE)
            else:
                ax.plot(predicted["x"], predicted["theory"], **THEORY_LINE)
    ax.set(xlabel=AXIS_LABELS.get(x, x), ylabel=AXIS_LABELS.get(y, y))
    for axis in log:
        log_axis(ax, axis)
    legend(ax)
    return fig
