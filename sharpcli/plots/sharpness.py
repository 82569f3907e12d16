"""Loss and sharpness over training, with the edge of stability."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import NAMES, curves, figure, need, need_axis


def sharpness(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above the training loss; below lambda_1 (and the eigenvalues after it, fainter) and, dashed in each
    run's colour, the edge of stability that the optimizer states; dotted that of the rule it wraps (SAM's
    base), for comparison. A rule that states none has no such line."""
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
        "--": "edge of stability" + (" 2/lr" if plain_gd(frame) else ""),
        ":": "edge of the base, for comparison",
    }
    for style, values in edges.items():
        if values:
            level = f" = {min(values):.4g}" if len(values) == 1 else ""
            below.plot([], [], style, color="0.3", label=names[style] + level, linewidth=1)
    above.set(ylabel=NAMES["train_loss"], yscale="log")
    below.set(ylabel=NAMES["lambda_1"] + " of the training loss", xlabel=NAMES.get(x, x))
    below.set_ylim(bottom=min(0, below.get_ylim()[0]))
    if frame["run"].nunique() > 1:
        above.legend(frameon=False, fontsize=8)
    else:
        above.set_title(frame["run"].iloc[0], fontsize=9)
    below.legend(frameon=False, fontsize=8)
    return fig


def plain_gd(frame: pd.DataFrame) -> bool:
    """Whether every edge in the frame is 2 / lr."""
    return "edge" in frame and bool((frame["edge"] * frame["lr"]).dropna().sub(2).abs().lt(1e-9).all())


def diverged(frame: pd.DataFrame, rows: pd.DataFrame) -> bool:
    """Whether the run that `rows` belong to ended so."""
    mine = frame[frame["run"] == rows["run"].iloc[0]]
    return "diverged" in mine and bool(mine["diverged"].fillna(False).astype(bool).any())
