"""Training and test loss, and accuracy where there is one, over training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import NAMES, curves, figure


def loss(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above the losses, on a log scale; below the accuracies, or a toy's own error. Training solid, test dashed."""
    pairs: list[tuple[str, ...]] = [("train_loss", "test_loss")]
    pairs += [pair for pair in (("train_accuracy", "test_accuracy"), ("recovery_error",), ("distance",)) if pair[0] in frame]
    fig, axes = figure(len(pairs))
    several = frame["run"].nunique() > 1
    if not several:
        axes[0].set_title(frame["run"].iloc[0], fontsize=9)
    for ax, columns in zip(axes, pairs, strict=True):
        for column, style in zip(columns, ("-", "--"), strict=False):
            if column not in frame:
                continue
            for colour, name, rows in curves(frame, column):
                ax.plot(
                    rows[x],
                    rows[column],
                    style,
                    color=colour,
                    label=name if several and style == "-" and ax is axes[0] else None,
                    linewidth=1.2,
                )
            ax.plot([], [], style, color="0.3", label=NAMES.get(column, column), linewidth=1)
        accuracy = columns[0] == "train_accuracy"
        ax.set(ylabel="accuracy" if accuracy else NAMES.get(columns[0], columns[0]).removeprefix("training "))
        if not accuracy and (frame[[c for c in columns if c in frame]].min().min()) > 0:
            ax.set_yscale("log")
        ax.legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel(NAMES.get(x, x))
    return fig
