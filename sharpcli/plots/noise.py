"""The noise of stochastic gradients over training: its size, its batch size and its alignment with the
Hessian."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import log_axis, need
from sharpcli.plots.panels import panels


def noise(frame: pd.DataFrame, *, x: str) -> Figure:
    """From top to bottom Tr C of the covariance C of the gradients of single examples, on a log scale; the
    noise scale Tr C / |g|^2, the batch size at which noise and gradient are as large as each other, on a log
    scale; and Tr HC / (|H|_F |C|_F), which is 1 where C is a multiple of H. Refuses runs without the measure
    `gradient_noise`."""
    need(frame, "noise_trace", "gradient_noise")
    fig, axes = panels(
        frame,
        x,
        [["noise_trace"], ["noise_scale"], ["noise_alignment"]],
        [r"$\mathrm{Tr}\,C$", "noise scale (examples)", r"alignment of $C$ with $H$"],
    )
    for name, ax in zip(("noise_trace", "noise_scale"), axes, strict=False):
        if frame[name].max() > 0:
            log_axis(ax, "y")
    return fig
