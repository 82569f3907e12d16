"""Measured numbers, and the curve that theory predicts for them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpcli.plots import AXIS_LABELS, column, dots, figure, legend, log_axis

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
    in `parts`, if any), and after all colours another marker; one curve for each run with a dot at its end,
    or the dot alone with `only_last`. The theory's `line`, an expression too, is drawn in black: over the x
    of all parts where it is a function of x alone and dots are drawn, else over that of the first. `log`
    names the axes that are logarithmic."""
    fig, (ax,) = figure()
    names, predicted = parts or sorted(frame["part"].unique()), []
    for i, name in enumerate(names):
        rows = frame[frame["part"] == name]
        rows = rows.assign(x=column(rows, x), y=column(rows, y)).dropna(subset=["x", "y"])
        style = {**dots(i), "alpha": 0.7}
        if only_last:
            ends = rows.groupby("run").tail(1)
            ax.plot(ends["x"], ends["y"], label=name, linestyle="none", markersize=4, **style)
        else:
            for j, (_, curve) in enumerate(rows.groupby("run", sort=False)):
                end: dict[str, Any] = {"markersize": 3, "markevery": [len(curve) - 1]}
                of_part = name if j == 0 else None
                ax.plot(curve["x"], curve["y"], label=of_part, linewidth=0.9, **end, **style)
        if line is not None:
            predicted.append(rows.assign(theory=column(rows, line))[["x", "theory"]])
    if predicted:
        _draw_theory(ax, predicted, only_last)
    ax.set(xlabel=AXIS_LABELS.get(x, x), ylabel=AXIS_LABELS.get(y, y))
    for axis in log:
        log_axis(ax, axis)
    legend(ax)
    return fig


def _draw_theory(ax: Axes, parts: list[pd.DataFrame], only_last: bool) -> None:
    """Draws the theory of the parts, whose columns are `x` and `theory` (see `theory`)."""
    first, every = parts[0].sort_values("x"), pd.concat(parts).sort_values("x")
    values = every.groupby("x")["theory"]
    of_x_alone = bool(((values.max() - values.min()).abs() <= 1e-9 * values.max().abs()).all())
    drawn = every if only_last and of_x_alone else first
    if drawn["theory"].nunique() == 1:  # a constant, over all of the axis
        ax.axhline(drawn["theory"].iloc[0], **THEORY_LINE)
    else:
        ax.plot(drawn["x"], drawn["theory"], **THEORY_LINE)
