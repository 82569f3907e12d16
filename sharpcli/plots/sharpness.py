"""Loss and sharpness over training, with the edge of stability."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import NAMES, curves, figure


def sharpness(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above the training loss; below lambda_1 (and the eigenvalues after it, fainter) and, dashed in each run's colour,
    the edge: the optimizer's own where it has one, else 2 / lr of gradient descent, dotted."""
    fig, (above, below) = figure(2)
    for colour, name, rows in curves(frame, "train_loss"):
        above.plot(rows[x], rows["train_loss"], color=colour, label=name, linewidth=1.2)
    own, borrowed = False, False
    for colour, _, rows in curves(frame, "lambda_1"):
        below.plot(rows[x], rows["lambda_1"], color=colour, linewidth=1.2, marker=".", markersize=2)
        for k in range(2, 100):
            if f"lambda_{k}" not in rows or rows[f"lambda_{k}"].isna().all():
                break
            below.plot(rows[x], rows[f"lambda_{k}"], color=colour, linewidth=0.8, alpha=0.4)
        has_edge = "edge" in rows and rows["edge"].notna().any()
        edge = rows["edge"] if has_edge else 2 / rows["lr"].where(rows["lr"] > 0)
        own, borrowed = own or has_edge, borrowed or not has_edge
        below.plot(rows[x], edge, color=colour, linestyle="--" if has_edge else ":", linewidth=1)
        for ax, y in ((above, rows["train_loss"] if "train_loss" in rows else None), (below, rows["lambda_1"])):
            if y is not None and len(rows) and diverged(frame, rows):
                ax.plot(rows[x].iloc[-1], y.iloc[-1], "x", color=colour)
    lines = [("--", "edge of stability: 2/lr for gradient descent"), (":", "2/lr, the edge of gradient descent, for comparison")]
    for (style, words), shown in zip(lines, (own, borrowed), strict=True):
        if shown:
            below.plot([], [], style, color="0.3", label=words, linewidth=1)
    above.set(ylabel=NAMES["train_loss"], yscale="log")
    below.set(ylabel=NAMES["lambda_1"] + r" of the training loss", xlabel=NAMES.get(x, x))
    below.set_ylim(bottom=min(0, below.get_ylim()[0]))
    above.legend(frameon=False, fontsize=8)
    if own or borrowed:
        below.legend(frameon=False, fontsize=8)
    return fig


def diverged(frame: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """Whether the run that `rows` belong to ended so."""
    mine = frame[frame["run"] == rows["run"].iloc[0]]
    return "diverged" in mine and bool(mine["diverged"].fillna(False).astype(bool).any())
