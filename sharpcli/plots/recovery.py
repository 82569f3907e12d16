"""How far from the truth a run is, over training: the sparse vector or the low-rank matrix that the data were
made of."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import curves, log_axis, need, title
from sharpcli.plots.panels import panels

ERRORS = ("recovery_error", "flow_recovery_error", "projected_recovery_error")


def recovery(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above, the recovery error of the weights, of Phi(w) (where gradient flow from w ends) and of the
    projection onto the interpolators, as far as they were measured: 0 is the truth, 1 as far from it as 0 is;
    below, the norms that the bias is said to lower, l1 or nuclear. Refuses runs of problems without a truth.
    """
    need(frame, "recovery_error", "scores")
    norms = ["l1_norm", "flow_l1", "projected_l1_norm", "nuclear_norm", "projected_nuclear_norm"]
    fig, axes = panels(frame, x, [ERRORS, norms], [title("recovery_error"), "norm"])
    lowest = min(float(rows["recovery_error"].min()) for _, _, rows in curves(frame, "recovery_error"))
    if lowest > 0:
        log_axis(axes[0], "y")
    return fig
