"""A sweep over two settings as a heat map of final values."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from sharpcli.errors import Refusal
from sharpcli.plots import figure, finals, seeds_of, title


def grid(frame: pd.DataFrame, *, x: str, y: str, value: str, log: bool) -> Figure:
    """The final `value`, an expression in the columns, of every pair of the settings `x` and `y`: the mean
    over seeds, written into its cell; "diverged" where every run of the cell diverged, empty where no run has
    it. `log` colours by the logarithm. Refuses runs that differ in a third setting."""
    ends = finals(frame, [value])
    groups = seeds_of(ends, [x, y], ", or choose among them by where")
    xs, ys = (sorted(ends[key].dropna().unique(), key=_order) for key in (x, y))
    mean = np.full((len(ys), len(xs)), np.nan)
    said: dict[tuple[int, int], str] = {}
    for group in groups:
        if pd.isna(group[x].iloc[0]) or pd.isna(group[y].iloc[0]):
            continue
        at = ys.index(group[y].iloc[0]), xs.index(group[x].iloc[0])
        mean[at] = group[value].mean()
        said[at] = f"{mean[at]:.3g}" if np.isfinite(mean[at]) else _without(group)
    if not np.isfinite(mean).any():
        raise Refusal(f"value={value}: no run of this grid has a final value of it")
    fig, (ax,) = figure()
    norm = LogNorm() if log and np.nanmin(mean) > 0 else Normalize()
    norm.autoscale_None(mean[np.isfinite(mean)])
    image = ax.imshow(mean, origin="lower", aspect="auto", cmap="cividis", norm=norm)
    for (i, j), text in said.items():
        shade = float(norm(mean[i, j])) if np.isfinite(mean[i, j]) else 1.0
        ink_of_cell = "white" if shade < 0.5 else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize="small", color=ink_of_cell)
    ax.set_xticks(range(len(xs)), [_word(v) for v in xs])
    ax.set_yticks(range(len(ys)), [_word(v) for v in ys])
    ax.set(xlabel=title(x), ylabel=title(y))
    ax.grid(False)
    ax.spines[:].set_visible(False)
    fig.colorbar(image, ax=ax, label=f"final {title(value)}")
    return fig


def _without(group: pd.DataFrame) -> str:
    return next((word for word in ("diverged", "unfinished") if group[word].any()), "not measured")


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _order(value: object) -> tuple[bool, object]:
    return isinstance(value, str), value
