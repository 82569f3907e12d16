"""Plots. A part is a function `(frame, *, ...) -> Figure`; the frame has one row for each run and measured
step.

The columns are those of the runs' rows, `run`, `method`, `problem`, `lr`, `seed` and every other setting of
the run's config by its dotted name (`optimizer.rho`); `scores` holds the names of the problem's scores that a
reader wants to see, with blanks between them. A plot states with `need` which columns it cannot do without.
Figures are matplotlib's objects; pyplot's state is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpcli.errors import Refusal

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito 2008
X_COLUMNS = ("epoch", "seconds", "step")  # that a run is drawn over
AXIS_LABELS = {  # of columns and of expressions in them; others are labelled by themselves
    "lambda_1": r"sharpness $\lambda_1$",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "mean_train_loss": "training loss, as predicted on average for central",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "trace": r"$\mathrm{Tr}\,H$",
    "recovery_error": r"recovery error $|w - w_\star|^2 / |w_\star|^2$",
    "epoch": "epoch",
    "step": "step",
    "seconds": "seconds",
    "lr": "step size",
    "flow_trace": r"$\mathrm{Tr}\,H$ on the manifold, at $\Phi(x)$",
    "flow_recovery_error": r"recovery error at $\Phi(x)$",
    "flow_recovery_error_first": "recovery error where gradient flow ends",
    "gain": "recovery error over gradient flow's",
    "lr ** 2 * step": r"$\mathrm{lr}^2\,t$",
    "edge_share": r"$\lambda_1$ over the edge of stability",
    "over_least": r"$\mathrm{Tr}\,H$ over its least",
    "flat": r"$\mathrm{Tr}\,H$ over that at the smallest lr",
    "share_of_run": "share of the run",
    "start": "number of the start",
    "gap": "accuracy on training less test images",
    "keskar_sharpness": "Keskar's sharpness",
    "projected_trace": r"$\mathrm{Tr}\,H$, projected",
    "projected_test_error": "test error, projected",
    "lr_trace": r"$\mathrm{lr}\,\mathrm{Tr}\,H$ at the start",
}


def figure(rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, and its `rows` axes from top to bottom, which share their x."""
    fig = Figure(figsize=(6.4, 1.2 + 2.9 * rows), layout="constrained", dpi=150)
    axes = fig.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
    return fig, list(axes)


def need(frame: pd.DataFrame, column: str, measure: str) -> None:
    """Refuses runs without any value in `column`, and says which measure adds it."""
    if column not in frame or frame[column].isna().all():
        run = str(frame["run"].iloc[0]).partition("#")[0]
        raise Refusal(f"{run} has no {column}; sharp measure {run} measure=[{measure}] adds it")


def need_axis(frame: pd.DataFrame, x: str) -> None:
    """Refuses an `x` that a run cannot be drawn over."""
    if x not in X_COLUMNS or x not in frame:
        raise Refusal(f"x={x}: no such column in these runs; possible: {', '.join(X_COLUMNS)}")


def label(frame: pd.DataFrame, by: Sequence[str]) -> str:
    """The settings `by` of the first row of `frame`, as a legend shows them: `sam, lr 0.05`."""
    return ", ".join(_setting(key, frame[key].iloc[0]) for key in by)


def _setting(key: str, value: Any) -> str:
    if key == "method":
        return str(value)
    return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"


def curves(frame: pd.DataFrame, y: str) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """For each run a colour, a legend label (the method, lr and seed where they vary, else the run's name),
    and the rows that have a value of `y`."""
    said = [key for key in ("method", "lr", "seed") if key in frame]  # a label that config.yaml has lost
    varying = [key for key in said if frame.groupby("run")[key].first().nunique() > 1]
    for i, (run, rows) in enumerate(frame.groupby("run", sort=False)):
        name = label(rows, varying) if varying else str(run)
        yield PALETTE[i % len(PALETTE)], name, rows[rows[y].notna()] if y in rows else rows.iloc[:0]
