"""A measure of each layer over training, as `sharp measure --by layer` measured it."""

from __future__ import annotations

import fnmatch

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import column, figure, legend, log_axis, style, title
from sharpcli.plots.panels import ERRORS


def layers(frame: pd.DataFrame, *, params: str, x: str, y: str, log: bool) -> Figure:
    """`y` of the layers whose names match the pattern `params`, over `x`, a curve for each with a band of two
    of its errors; of one run. `log` makes the y axis logarithmic. Refuses runs that were not measured by
    layer, and more than one."""
    runs = list(frame["run"].unique())
    if len(runs) > 1:
        raise Refusal(f"plot layers draws a single run, and these are {len(runs)}; name one, as in {runs[0]}")
    run = str(runs[0])
    rows = frame[frame["params"].notna()] if "params" in frame else frame.iloc[:0]
    rows = rows[[fnmatch.fnmatch(str(name), params) for name in rows.get("params", [])]]
    if rows.empty or y not in rows or rows[y].isna().all():
        measure = "sharpness" if y.startswith("lambda_") else y
        raise Refusal(
            f"{run} has no {y} of layers; sharp measure {run} --by layer measure=[{measure}] adds it"
        )
    rows = rows.assign(_x=column(rows, x))
    fig, (ax,) = figure()
    for i, (name, of_layer) in enumerate(rows.groupby("params", sort=False)):
        # measured twice at a step: the newest number
        curve = of_layer.dropna(subset=[y]).groupby("_x").last()
        look = style(i)
        ax.plot(curve.index, curve[y], label=name, linewidth=1.2, **{"marker": ".", **look})
        for error in (f"{y}{ending}" for ending in ERRORS if f"{y}{ending}" in curve):
            low, high = curve[y] - 2 * curve[error], curve[y] + 2 * curve[error]
            ax.fill_between(curve.index, low, high, color=look["color"], alpha=0.2, linewidth=0)
    ax.set(xlabel=title(x), ylabel=title(y))
    ax.set_title(run, fontsize="small")
    if log:
        log_axis(ax, "y")
    legend(ax)
    return fig
