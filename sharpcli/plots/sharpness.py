"""Loss and sharpness over training, with the edge of stability."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import AXIS_LABELS, curves, figure, need, need_axis


def sharpness(frame: pd.DataFrame, *, x: str) -> Figure:
    """The training loss above; lambda_1 and, fainter, the eigenvalues after it below. A dashed line in each
    run's colour is the edge of stability that its optimizer states, a dotted line the edge of the rule that
    it wraps (SAM's base), for comparison; an optimizer that states no edge has no such line. Refuses runs
    without lambda_1 or a training loss, and an `x` that a run cannot be drawn over."""
    need(frame, "lambda_1", "sharpness")
    need(frame, "train_loss", "scores")
    need_axis(frame, x)
    fig, (above, below) = figure(2)
    for colour, name, rows in curves(frame, "train_loss"):
        above.plot(rows[x], rows["train_loss"], color=colour, label=name, linewidth=1.2)
    edges: dict[str, set[float]] = {"--": set(), ":": set()}
    for colour, _, rows in curves(frame, "lambda_1"):
        below.plot(rows[x], rows["lambda_1"], color=colour, linewidth=1.2, marker=".", markersize=2)
        for k in range(2, 100):
            if f"lambda_{k}" not in rows or rows[f"lambda_{k}"].isna().all():
                break
            below.plot(rows[x], rows[f"lambda_{k}"], color=colour, linewidth=0.8, alpha=0.4)
        for column, style in (("edge", "--"), ("base_edge", ":")):
            if column in rows and rows[column].notna().any():
                below.plot(rows[x], rows[column], color=colour, linestyle=style, linewidth=1)
                edges[style] |= set(rows[column].dropna())
        if len(rows) and diverged(frame, rows):
            below.plot(rows[x].iloc[-1], rows["lambda_1"].iloc[-1], "x", color=colour, label="diverged")
    names = {
        "--": "edge of stability" + (" 2/lr" if edges_are_those_of_gd(frame) else ""),
        ":": "edge of the base, for comparison",
    }
    for style, values in edges.items():
        if values:
            only_value = f" = {min(values):.4g}" if len(values) == 1 else ""
            below.plot([], [], style, color="0.3", label=names[style] + only_value, linewidth=1)
    above.set(ylabel=AXIS_LABELS["train_loss"], yscale="log")
    below.set(ylabel=AXIS_LABELS["lambda_1"] + " of the training loss", xlabel=AXIS_LABELS.get(x, x))
    below.set_ylim(bottom=min(0, below.get_ylim()[0]))
    if frame["run"].nunique() > 1:
        above.legend(frameon=False, fontsize=8)
    else:
        above.set_title(frame["run"].iloc[0], fontsize=9)
    if below.get_legend_handles_labels()[0]:
        below.legend(frameon=False, fontsize=8)
    return fig


def edges_are_those_of_gd(frame: pd.DataFrame) -> bool:
    """Whether every edge in the frame is 2 / lr, that of gradient descent."""
    if not {"edge", "lr"} <= set(frame):
        return False
    return bool((frame["edge"] * frame["lr"]).dropna().sub(2).abs().lt(1e-9).all())


def diverged(frame: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """Whether the run whose rows are `rows` diverged, by all of its rows in `frame`."""
    of_run = frame[frame["run"] == rows["run"].iloc[0]]
    return "diverged" in of_run and bool(of_run["diverged"].eq(True).any())
