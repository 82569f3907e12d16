"""Training and test loss over training, and accuracy for problems with classes."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import AXIS_LABELS, curves, each_run, figure, ink, legend, log_axis, need, need_axis
from sharpcli.plots.diverging import diverged, leave_room, mark


def loss(frame: pd.DataFrame, *, x: str) -> Figure:
    """The losses above, on a log scale; the accuracies and the problem's other scores below. Solid lines are
    of the training set, dashed lines of the test set; a cross is where a run diverged, which does not set
    the axis of a loss where others did not. Refuses runs without a training loss, and an `x` that a
    run cannot be drawn over."""
    need(frame, "train_loss", "scores")
    need_axis(frame, x)
    columns_of_axes, runs, ended = _columns_of_axes(frame), each_run(frame), diverged(frame)
    fig, axes = figure(len(columns_of_axes))
    several = len(runs) > 1
    if not several:
        axes[0].set_title(frame["run"].iloc[0], fontsize="small")
    for ax, columns in zip(axes, columns_of_axes, strict=True):
        for column, style in zip(columns, ("-", "--"), strict=False):
            if column not in frame:
                continue
            names_runs = several and style == "-" and ax is axes[0]
            for look, name, rows in curves(frame, column, runs):
                ax.plot(
                    rows[x], rows[column], style, label=name if names_runs else None, linewidth=1.2, **look
                )
            ax.plot([], [], style, color=ink(), label=AXIS_LABELS.get(column, column), linewidth=1)
        score = columns[0].removeprefix("train_")
        is_share = score.endswith("accuracy")
        y_label = AXIS_LABELS.get(columns[0], columns[0]).removeprefix("training ")
        ax.set(ylabel=score if is_share else y_label)
        if not is_share and (frame[[c for c in columns if c in frame]].min().min()) > 0:
            log_axis(ax, "y")
        if not is_share:
            leave_room(ax, runs, columns, ended)
        mark(ax, runs, x, columns[0], ended)
        legend(ax)
    axes[-1].set_xlabel(AXIS_LABELS.get(x, x))
    return fig


def _columns_of_axes(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The columns that each axes draws, in the problem's order: a score of the training set together with the
    same score of the test set, every other score alone."""
    names = list(dict.fromkeys(name for scores in frame["scores"].dropna() for name in str(scores).split()))
    names = [name for name in names if name in frame and frame[name].notna().any()]
    columns: list[tuple[str, ...]] = []
    for name in names:
        score = name.partition("_")[2]
        of_training = f"train_{score}"
        if name.startswith("test_") and of_training in names:
            continue
        columns.append((name, f"test_{score}") if name == of_training else (name,))
    return columns
