"""The spectral density of the Hessian, as `measure=[density]` recorded it.

The sum of Gaussians is that of `linalg.quadrature.Quadrature.curve`, written again in NumPy: a plot imports
no torch, so that drawing starts at once.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from sharpcli.plots import figure, legend, log_axis, need, style

GRID_POINTS = 2000  # eigenvalues at which a density is drawn


def density(frame: pd.DataFrame, *, width: float, over_training: bool) -> Figure:
    """phi(lambda) at each run's last step with the measure, or `over_training` at every step that has it,
    from dark to light: every quadrature node is a Gaussian whose
    standard deviation is `width` times the distance of the outermost nodes. The line is the mean over probes,
    the band one standard error to either side.

    The upper axes have a linear scale, the lower a logarithmic scale, on which single outliers can be seen;
    the density integrates to 1. Refuses runs without the measure.
    """
    need(frame, "density_nodes", "density")
    fig, axes = figure(2)
    rows = frame[frame["density_nodes"].notna()]
    rows = rows if over_training else rows.groupby("run", sort=False).tail(1)
    shades = colormaps["cividis"](np.linspace(0, 0.9, len(rows)))
    for i, (_, row) in enumerate(rows.iterrows()):
        nodes, weights = np.array(row["density_nodes"]), np.array(row["density_weights"])
        spectrum_length = max(nodes.max() - nodes.min(), np.finfo(float).tiny)
        sigma = width * spectrum_length
        grid = np.linspace(nodes.min() - 4 * sigma, nodes.max() + 4 * sigma, GRID_POINTS)
        area = sigma * np.sqrt(2 * np.pi)
        gaussians = np.exp(-0.5 * ((grid[:, None, None] - nodes) / sigma) ** 2) / area
        by_probe = (gaussians * weights).sum(2)  # [points, probes], summed over the nodes
        mean, stderr = by_probe.mean(1), by_probe.std(1, ddof=1) / np.sqrt(by_probe.shape[1])
        look, name = style(i), f"{row['run']}, step {row['step']}"
        if over_training:
            look = {"color": to_hex(shades[i])}
            name = f"step {row['step']}" if frame["run"].nunique() == 1 else name
        low, high = np.maximum(mean - stderr, 1e-12), mean + stderr  # a logarithmic scale ends above 0
        for ax in axes:
            ax.plot(grid, mean, linewidth=1.2, label=name, **look)
            ax.fill_between(grid, low, high, color=look["color"], alpha=0.25, linewidth=0)
        lowest_peak = weights[weights > 0].min() / area / len(nodes)
        axes[1].set_ylim(bottom=max(lowest_peak, mean.max() * 1e-9))
    log_axis(axes[1], "y")
    axes[1].set(xlabel=r"eigenvalue $\lambda$ of $H$", ylabel="density (log)")
    axes[0].set(ylabel="density")
    legend(axes[0])
    return fig
