"""The spectral density of the Hessian, as `measure=[density]` recorded it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpcli.plots import PALETTE, figure, need

GRID = 2000


def density(frame: pd.DataFrame, *, width: float) -> Figure:
    """phi(lambda) of each run's last measured step: every quadrature node a Gaussian whose standard deviation
    is `width` times the spectrum's length; the line is the mean over probes, the band one standard error.
    Above on a linear scale, below on a log scale, where single outliers show; both integrate to 1."""
    need(frame, "density_nodes", "density")
    fig, axes = figure(2)
    rows = frame[frame["density_nodes"].notna()].groupby("run", sort=False).tail(1)
    for i, (_, row) in enumerate(rows.iterrows()):
        nodes, weights = np.array(row["density_nodes"]), np.array(row["density_weights"])
        length = max(nodes.max() - nodes.min(), np.finfo(float).tiny)
        sigma = width * length
        grid = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, GRID)
        bells = np.exp(-0.5 * ((grid[:, None, None] - nodes) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        each = (bells * weights).sum(2)
        mean, stderr = each.mean(1), each.std(1, ddof=1) / np.sqrt(each.shape[1])
        for ax in axes:
            ax.plot(
                grid,
                mean,
                color=PALETTE[i % len(PALETTE)],
                linewidth=1.2,
                label=f"{row['run']}, step {row['step']}",
            )
            ax.fill_between(
                grid,
                np.maximum(mean - stderr, 1e-12),
                mean + stderr,
                color=PALETTE[i % len(PALETTE)],
                alpha=0.25,
                linewidth=0,
            )
        lowest = weights[weights > 0].min() / (sigma * np.sqrt(2 * np.pi)) / len(nodes)
        axes[1].set_ylim(bottom=max(lowest, mean.max() * 1e-9))
    axes[1].set(yscale="log", xlabel=r"eigenvalue $\lambda$ of $H$", ylabel="density (log)")
    axes[0].set(ylabel="density")
    axes[0].legend(frameon=False, fontsize=8)
    return fig
