"""What the weights say that the data were made of, entry by entry, beside what they were made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sharpcli.errors import Refusal
from sharpcli.plots import curves, figure, ink, legend


def learned(frame: pd.DataFrame, *, most: int) -> Figure:
    """Each entry of the true vector or matrix as a circle, and of the learned one as a dot of the run's
    colour; the entries in the order of the truth's size, those that are 0 by how far a run is from it. Of
    more than `most` entries the first are drawn, and the axis says so. Where runs are of several truths, each
    has circles of its colour. Refuses `most` below 1."""
    if most < 1:
        raise Refusal(f"most={most}: at least 1 entry")
    by_run = list(curves(frame, "learned"))
    truths = {tuple(rows["truth"]) for _, _, rows in by_run}
    missed = frame.assign(size=frame["truth"].abs(), off=(frame["learned"] - frame["truth"]).abs())
    fig, (ax,) = figure()
    shared = missed.groupby("entry")[["size", "off"]].max() if len(truths) == 1 else None
    for i, (look, name, rows) in enumerate(by_run):
        own = missed.loc[rows.index].set_index("entry") if shared is None else shared
        order = own.sort_values(["size", "off"], ascending=False, kind="stable").index[:most]
        drawn, at = rows.set_index("entry").loc[order], np.arange(1, len(order) + 1)
        if i == 0 or len(truths) > 1:
            ax.plot(
                at,
                drawn["truth"],
                linestyle="none",
                marker="o",
                markersize=7,
                markerfacecolor="none",
                color=ink() if len(truths) == 1 else look["color"],
                label="truth" if i == 0 else None,
            )
        ax.plot(at, drawn["learned"], linestyle="none", **look | {"marker": ".", "markersize": 6}, label=name)
    ax.axhline(0, color=ink(), linewidth=0.5)
    entries = frame["entry"].nunique()
    cut = f", the first {most} of {entries}" if most < entries else ""
    ax.set(xlabel=f"entry, by its true size{cut}", ylabel="entry of the vector or matrix")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(ax)
    return fig
