"""How far the gradient lies along the sharpest directions, over training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import need
from sharpcli.plots.panels import panels


def alignment(frame: pd.DataFrame, *, x: str) -> Figure:
    """Above, the share of |g|^2 in the span of the sharpest eigenvectors v_1 ... v_k, of the gradient and of
    SAM's; below, |cos(g, v_i)| for each. All lie between 0 and 1. Refuses runs without the measure
    `alignment`."""
    need(frame, "alignment_share", "alignment")
    single = sorted(
        (name for name in map(str, frame) if name.removeprefix("alignment_").isdigit()),
        key=lambda name: int(name.removeprefix("alignment_")),
    )
    fig, axes = panels(
        frame,
        x,
        [["alignment_share", "sam_alignment_share"], single],
        [r"share of $|g|^2$ in the top directions", r"$|\cos(g, v_i)|$"],
    )
    for ax in axes:
        ax.set_ylim(-0.02, 1.02)
    return fig
