"""Training and test loss, and accuracy where there is one, over training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import NAMES, curves, figure, need, need_axis


def loss(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above the losses, on a log scale; below the accuracies and the problem's other scores. Training solid,
    test dashed."""
    need(frame, "train_loss", "scores")
    need_axis(frame, x)
    pairs = _axes(frame)
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
        name = columns[0].removeprefix("train_")
        is_share = name.endswith("accuracy")
        ax.set(ylabel=name if is_share else NAMES.get(columns[0], columns[0]).removeprefix("training "))
        if not is_share and (frame[[c for c in columns if c in frame]].min().min()) > 0:
            ax.set_yscale("log")
        ax.legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel(NAMES.get(x, x))
    return fig


def _axes(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The columns of each axes, in the problem's order: a score of the training set with the same of the test
    set, other scores by themselves."""
    names = list(dict.fromkeys(name for listed in frame["scores"].dropna() for name in str(listed).split()))
    names = [name for name in names if name in frame and frame[name].notna().any()]
    out: list[tuple[str, ...]] = []
    for name in names:
        kind = name.partition("_")[2]
        of_training = f"train_{kind}"
        if name.startswith("test_") and of_training in names:
            continue
        out.append((name, f"test_{kind}") if name == of_training else (name,))
    return out
