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
    """The training loss above, where there is one; lambda_1 and, fainter, the eigenvalues after it below; and
    below these, where it was measured, preconditioned_lambda_1, which an adaptive optimizer brings to its
    edge. A dashed line in each run's colour is the edge of stability that its optimizer states, a dotted line
    the edge of the rule that it wraps (SAM's base), for comparison; an optimizer that states no edge has no
    such line. Refuses runs without lambda_1, and an `x` that a run cannot be drawn over."""
    need(frame, "lambda_1", "sharpness")
    need_axis(frame, x)
    frame = _less_what_is_added(frame)
    has_loss = _is_measured(frame, "train_loss")  # rows of sharp measure -o may have none
    preconditioned = _is_measured(frame, "preconditioned_lambda_1")
    fig, axes = figure(1 + has_loss + preconditioned)
    if has_loss:
        _losses(axes[0], frame, x)
    of_gd = " 2/lr" if edges_are_those_of_gd(frame) else ""
    edges = {
        "edge": ("--", f"edge of stability{of_gd}"),
        "base_edge": (":", "edge of the base, for comparison"),
    }
    _curvature(axes[has_loss], frame, x, "lambda_1", edges, names_runs=not has_loss)
    axes[has_loss].set(ylabel=AXIS_LABELS["lambda_1"] + " of the training loss")
    if preconditioned:
        edges = {"preconditioned_edge": ("--", "edge of stability")}
        _curvature(axes[-1], frame, x, "preconditioned_lambda_1", edges, names_runs=False)
        axes[-1].set(ylabel=AXIS_LABELS["preconditioned_lambda_1"])
    axes[-1].set(xlabel=AXIS_LABELS.get(x, x))
    return fig


def _curvature(
    ax: Axes, frame: pd.DataFrame, x: str, largest: str, stated: dict[str, tuple[str, str]], names_runs: bool
) -> None:
    """The eigenvalues `largest` and those after it, and the edges that are `stated`: the style of the line
    and its name, by column."""
    edges: dict[str, set[float]] = {column: set() for column in stated}
    highest, of_diverged, lowest = 0.0, 0.0, 0.0
    marked, gone = False, diverged(frame)
    for look, name, rows in curves(frame, largest):
        colour, label = look["color"], name if names_runs else None
        look = {"marker": ".", **look, "markersize": 2}
        ax.plot(rows[x], rows[largest], linewidth=1.2, label=label, **look)
        ended = bool(len(rows)) and rows["run"].iloc[0] in gone
        if ended:
            of_diverged = max(of_diverged, rows[largest].max())
        elif len(rows):
            highest, lowest = max(highest, rows[largest].max()), min(lowest, rows[largest].min())
        for column in _smaller(rows, largest.removesuffix("1")):
            ax.plot(rows[x], rows[column], color=colour, linewidth=0.8, alpha=0.4)
            lowest = min(lowest, float(rows[column].min()))
        for column, (style, _) in stated.items():
            if _is_measured(rows, column):
                ax.plot(rows[x], rows[column], color=colour, linestyle=style, linewidth=1)
                edges[column] |= set(rows[column].dropna())
        if ended:
            said = None if marked else "diverged"
            ax.plot(rows[x].iloc[-1], rows[largest].iloc[-1], "x", color=colour, label=said)
            marked = True
    highest = highest or of_diverged  # a run that diverges would press the others to the axis
    # by what was measured: the edge of a schedule that ends at 0 has no largest value
    near = [value for values in edges.values() for value in values if value <= NEAR * highest]
    top = max(highest, *near, 0.0)
    for column, (style, name) in stated.items():
        if values := edges[column]:
            said = name + (f" = {min(values):.5g}" if len(values) == 1 else "")
            said += ", above the picture" if min(values) > top else ""
            ax.plot([], [], style, color=ink(), label=said, linewidth=1)
    ax.set_ylim(lowest - 0.05 * (top - lowest) * (lowest < 0), top + 0.08 * (top - lowest) or 1.0)
    legend(ax)


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


def _less_what_is_added(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the edges less the curvature that objectives add to the one that is measured."""
    if "added_curvature" not in frame:
        return frame
    out, added = frame.copy(), frame["added_curvature"].astype(float).fillna(0.0)
    for column in {"edge", "base_edge"} & set(frame):
        out[column] = frame[column] - added
    return out


def _smaller(rows: pd.DataFrame, prefix: str) -> list[str]:
    """The columns of the eigenvalues after the largest, `prefix` and a number, as far as they were
    measured."""
    columns = (f"{prefix}{k}" for k in range(2, 100))
    return [*takewhile(lambda column: _is_measured(rows, column), columns)]


def _is_measured(frame: pd.DataFrame, column: str) -> bool:
    """Whether a row has a value of the column."""
    return column in frame and bool(frame[column].notna().any())


def edges_are_those_of_gd(frame: pd.DataFrame) -> bool:
    """Whether every edge in the frame is 2 / lr, that of gradient descent."""
    if not {"edge", "lr_now"} <= set(frame):
        return False
    return bool((frame["edge"] * frame["lr_now"]).dropna().sub(2).abs().lt(1e-9).all())
