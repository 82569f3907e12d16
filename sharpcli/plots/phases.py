"""The two phases of label noise: down to the manifold of interpolators within a time lr t of order 1, then
along it over times lr^2 t of order 1 (Li, Wang & Arora 2022, arXiv:2110.06914)."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import column, curves, figure, ink, legend, log_axis, seen, style, title

TRACES = ("trace", "flow_trace")  # of the weights, and of Phi(w) on the manifold
DISTANCES = ("flow_distance", "manifold_distance", "projected_distance")
CLOCKS = {"lr * step": r"$\mathrm{lr}\,t$", "lr ** 2 * step": r"$\mathrm{lr}^2\,t$"}


def phases(frame: pd.DataFrame) -> Figure:
    """Tr H above and the distance from the manifold of interpolators below, to the left over lr t and to the
    right over lr^2 t, on which runs of different step sizes fall onto one curve: in the first phase to the
    left, in the second to the right. Dashed: Tr H of the limiting flow, by theory. lr is the setting, t the
    step. Refuses runs without a trace."""
    traces = [name for name in TRACES if name in frame and frame[name].notna().any()]
    distances = [name for name in DISTANCES if name in frame and frame[name].notna().any()][:1]
    if not traces:
        run = str(frame["run"].iloc[0]).partition("#")[0]
        raise Refusal(f"{run} has no trace; sharp measure {run} measure=[trace] adds it")
    shown = [traces[0], *distances]
    fig, _ = figure(len(shown))
    fig.clear()
    width, height = fig.get_size_inches()
    fig.set_size_inches(width * 1.35, height)
    axes = fig.subplots(len(shown), 2, sharey="row", sharex="col", squeeze=False)
    for (clock, said), of_clock in zip(CLOCKS.items(), axes.T, strict=True):
        rows = frame.assign(_x=column(frame, clock))
        for name, ax in zip(shown, of_clock, strict=True):
            for look, run, of_run in curves(rows, name):
                _draw(ax, of_run, name, {**look, "label": run if ax is axes[0, 0] else None})
            if name in TRACES and "flow_trace_theory" in rows:
                for _, _, of_run in curves(rows, "flow_trace_theory"):
                    ax.plot(of_run["_x"], of_run["flow_trace_theory"], "--", color=ink(), linewidth=1)
                if ax is axes[0, 0] and rows["flow_trace_theory"].notna().any():
                    ax.plot([], [], "--", color=ink(), linewidth=1, label="limiting flow")
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.5)
            positive = rows.loc[rows["_x"] > 0, name].dropna()
            if len(positive) and positive.min() > 0:
                log_axis(ax, "y")
            log_axis(ax, "x", between=False)
        of_clock[-1].set_xlabel(said)
    for name, ax in zip(shown, axes[:, 0], strict=True):
        ax.set_ylabel(title(name))
    legend(axes[0, 0])
    return fig


def _draw(ax: Any, rows: pd.DataFrame, name: str, look: dict[str, Any]) -> None:
    """A curve without its start, which a log scale does not show."""
    later = rows[rows["_x"] > 0]
    ax.plot(later["_x"], later[name], linewidth=1.2, **seen(style(0) | look, len(later)))
