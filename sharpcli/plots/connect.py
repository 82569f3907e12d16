"""The loss along curves between two minima, and the barriers on the way."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import figure, ink, legend, log_axis, style


def connect(frame: pd.DataFrame, *, log: bool) -> Figure:
    """L(w(t)) over t for each curve. The legend states a curve's barrier, the largest excess over the dashed
    line between the losses at its ends, and the error that the finite number of points leaves. `log` makes
    the y axis logarithmic."""
    fig, (ax,) = figure()
    if log and not (frame["loss"].dropna() > 0).all():
        raise Refusal("log=true: a loss that is not above 0 has no logarithm; take log=false")
    for i, (curve, rows) in enumerate(frame.groupby("curve", sort=False)):
        found = frame.attrs["barriers"][curve]
        label = f"{curve}: barrier {found['height']:.3g} ± {found['error']:.1g}"
        ax.plot(rows["t"], rows["loss"], linewidth=1.4, label=label, **style(i))
        if i == 0:
            first, last = rows["loss"].iloc[[0, -1]]
            t = np.linspace(0, 1, 200)  # a line is none on a log axis
            ax.plot(t, first + t * (last - first), "--", color=ink(), linewidth=0.8)
    ax.set(xlabel="$t$, from the first minimum to the second", ylabel="loss")
    ax.set_title(frame.attrs["of"], fontsize="small")
    if log:
        log_axis(ax, "y")
    legend(ax)
    return fig
