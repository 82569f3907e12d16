"""Loss and sharpness over training, with the edge of stability."""

from __future__ import annotations

from itertools import takewhile

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpcli.plots import AXIS_LABELS, curves, each_run, figure, ink, legend, log_axis, need, need_axis
from sharpcli.plots.diverging import diverged, leave_room

NEAR = 2.0  # times the largest lambda_1: edges above it are not in the picture


def sharpness(frame: pd.DataFrame, *, x: str) -> Figure:
    """The training loss above, where there is one; lambda_1 and, fainter, the eigenvalues after it below. A
    dashed line in each run's colour is the edge of stability that its optimizer states, a dotted line the
    edge of the rule that it wraps (SAM's base), for comparison; an optimizer that states no edge has no such
    line. Refuses runs without lambda_1, and an `x` that a run cannot be drawn over."""
    need(frame, "lambda_1", "sharpness")
    need_axis(frame, x)
    has_loss = "train_loss" in frame and frame["train_loss"].notna().any()
    fig, axes = figure(2 if has_loss else 1)
    below = axes[-1]
    if has_loss:  # rows of sharp measure -o may have none
        _losses(axes[0], frame, x)
    edges: dict[str, set[float]] = {"--": set(), ":": set()}
    highest, of_diverged, lowest = 0.0, 0.0, 0.0
    marked, gone = False, diverged(frame)
    for look, name, rows in curves(frame, "lambda_1"):
        colour, label = look["color"], None if has_loss else name
        look = {"marker": ".", **look, "markersize": 2}
        below.plot(rows[x], rows["lambda_1"], linewidth=1.2, label=label, **look)
        ended = bool(len(rows)) and rows["run"].iloc[0] in gone
        if ended:
            of_diverged = max(of_diverged, rows["lambda_1"].max())
        elif len(rows):
            highest, lowest = max(highest, rows["lambda_1"].max()), min(lowest, rows["lambda_1"].min())
        for column in _smaller(rows):
            below.plot(rows[x], rows[column], color=colour, linewidth=0.8, alpha=0.4)
            lowest = min(lowest, float(rows[column].min()))
        for column, style in (("edge", "--"), ("base_edge", ":")):
            if column in rows and rows[column].notna().any():
                below.plot(rows[x], rows[column], color=colour, linestyle=style, linewidth=1)
                edges[style] |= set(rows[column].dropna())
        if ended:
            said = None if marked else "diverged"
            below.plot(rows[x].iloc[-1], rows["lambda_1"].iloc[-1], "x", color=colour, label=said)
            marked = True
    highest = highest or of_diverged  # a run that diverges would press the others to the axis
    names = {
        "--": "edge of stability" + (" 2/lr" if edges_are_those_of_gd(frame) else ""),
        ":": "edge of the base, for comparison",
    }
    below.set(ylabel=AXIS_LABELS["lambda_1"] + " of the training loss", xlabel=AXIS_LABELS.get(x, x))
    # by what was measured: the edge of a schedule that ends at 0 has no largest value
    near = [value for values in edges.values() for value in values if value <= NEAR * highest]
    top = max(highest, *near, 0.0)
    for style, values in edges.items():
        if values:
            said = names[style] + (f" = {min(values):.4g}" if len(values) == 1 else "")
            said += ", above the picture" if min(values) > top else ""
            below.plot([], [], style, color=ink(), label=said, linewidth=1)
    below.set_ylim(lowest - 0.05 * (top - lowest) * (lowest < 0), top + 0.08 * (top - lowest) or 1.0)
    legend(below)
    return fig


def _losses(ax: Axes, frame: pd.DataFrame, x: str) -> None:
    """The training losses, which name the runs."""
    runs, ended = each_run(frame), diverged(frame)
    for look, name, rows in curves(frame, "train_loss", runs):
        ax.plot(rows[x], rows["train_loss"], label=name, linewidth=1.2, **look)
    ax.set(ylabel=AXIS_LABELS["train_loss"])
    log_axis(ax, "y")
    leave_room(ax, runs, ["train_loss"], ended)
    if frame["run"].nunique() > 1:
        legend(ax)
    else:
        ax.set_title(frame["run"].iloc[0], fontsize="small")


def _smaller(rows: pd.DataFrame) -> list[str]:
    """The columns of the eigenvalues after the largest, as far as they were measured."""
    columns = (f"lambda_{k}" for k in range(2, 100))
    return [*takewhile(lambda column: column in rows and rows[column].notna().any(), columns)]


def edges_are_those_of_gd(frame: pd.DataFrame) -> bool:
    """Whether every edge in the frame is 2 / lr, that of gradient descent."""
    if not {"edge", "lr_now"} <= set(frame):
        return False
    return bool((frame["edge"] * frame["lr_now"]).dropna().sub(2).abs().lt(1e-9).all())
