"""The loss on a line or a plane in weight space, as contours or as a surface."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import PALETTE, figure, ink, legend, log_axis

LEVELS = 24  # contours


def landscape(frame: pd.DataFrame, *, surface: bool, log: bool) -> Figure:
    """Contours of the loss over the two coordinates `a` and `b`, or with `surface` the same as a surface in
    perspective; of one coordinate the loss over it. A cross marks the weights that the directions are taken
    at, a line with dots the checkpoints of a trajectory as they lie in the plane. `log` takes the logarithm
    of the loss. Along an eigenvector of a line the dashed parabola is L + lambda a^2 / 2.

    White or a gap is a loss that is not finite."""
    about = frame.attrs
    frame = frame.sort_values("step")
    if log and not (frame["loss"].dropna() > 0).all():
        raise Refusal("log=true: a loss that is not above 0 has no logarithm; take log=false")
    if "b" not in frame:
        return _line(frame, log)
    a, b = (np.unique(frame[key]) for key in ("a", "b"))
    loss = frame["loss"].to_numpy(float).reshape(len(a), len(b)).T
    height = np.log10(loss) if log else loss
    finite = np.ma.masked_invalid(height)
    if not finite.count():
        raise Refusal(f"{about['of']}: no loss in this plane is finite; take a smaller span=")
    said = r"$\log_{10}$ loss" if log else "loss"
    fig, (ax,) = figure()
    width, _ = fig.get_size_inches()
    fig.set_size_inches(width, 0.8 * width)
    if surface:
        fig.clear()
        solid = fig.add_subplot(projection="3d")
        mesh = np.meshgrid(a, b)
        solid.plot_surface(*mesh, finite, cmap="cividis", linewidth=0, antialiased=True, rstride=1, cstride=1)
        solid.set(xlabel=about["axes"][0], ylabel=about["axes"][1], zlabel=said)
        solid.tick_params(labelsize="small")
        fig.suptitle(f"{about['of']}, step {about['step']}", fontsize="small")
        return fig
    levels = np.linspace(finite.min(), finite.max(), LEVELS + 1)
    if levels[0] < levels[-1]:
        filled = ax.contourf(a, b, finite, levels=levels, cmap="cividis")
        ax.contour(a, b, finite, levels=levels, colors="white", linewidths=0.3, alpha=0.5)
        fig.colorbar(filled, ax=ax, label=said, format="%.3g")
    ax.plot(0, 0, "x", color="#D55E00", markersize=7, markeredgewidth=2, label=f"step {about['step']}")
    if about["trajectory"]:
        path = np.array(about["trajectory"])
        look, said = (".-", "checkpoints") if about["joined"] else ("o", "the three points")
        ax.plot(path[:, 1], path[:, 2], look, color="white", linewidth=1, markersize=4, label=said)
    ax.set(xlabel=about["axes"][0], ylabel=about["axes"][1])
    ax.set_title(f"{about['of']}", fontsize="small")
    ax.grid(False)
    ax.legend(fontsize="small", loc="upper right", facecolor="0.5", labelcolor="white", framealpha=0.6)
    return fig


def _line(frame: pd.DataFrame, log: bool) -> Figure:
    about = frame.attrs
    fig, (ax,) = figure()
    ax.plot(frame["a"], frame["loss"], color=PALETTE[0], linewidth=1.4, label="loss")
    if about.get("eigenvalues"):
        a = frame["a"].to_numpy(float)
        bent = about["loss"] + about["eigenvalues"][0] * a**2 / 2
        ax.plot(a, bent, "--", color=ink(), linewidth=1, label=r"$L + \lambda_1 a^2 / 2$")
    ax.plot(0, about["loss"], "x", color=PALETTE[1], markersize=7, label=f"step {about['step']}")
    ax.set(xlabel=about["axes"][0], ylabel="loss")
    ax.set_title(about["of"], fontsize="small")
    if log:
        log_axis(ax, "y")
    legend(ax)
    return fig
