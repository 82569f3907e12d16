"""One final quantity of many runs against another: does sharpness rank the runs as their generalization gap
does?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from sharpcli.errors import Refusal
from sharpcli.plots import column, dots, figure, finals, label, log_axis, settings, title

FEWEST = 3  # runs that a rank correlation needs
FEWEST_OF_INTERVAL = 8  # runs below which draws of a bootstrap are mostly of the same few pairs


def scatter(frame: pd.DataFrame, *, x: str, y: str, by: list[str], log: bool, resamples: int) -> Figure:
    """A point for each run: the final value of `y` over that of `x`, both expressions in the columns. The
    settings `by` give the colours; `log` makes the x axis logarithmic.

    The title states Kendall's tau-b over all runs, between -1 and 1, with a 95 % interval by the bootstrap
    over runs (`resamples` draws), of eight runs or more; and the lines below it tau within each
    hyperparameter: over the pairs of runs that differ in it, in what it decides (a method its rule, or its
    batch size) and perhaps in the seed, alone, averaged over the groups that hold all others fixed (Jiang et
    al. 2020, arXiv:1912.02178, their psi). A measure that only tells the values of one hyperparameter apart
    has a large tau overall and none within the others. Refuses fewer than three runs."""
    ends = finals(frame, [x, y])
    counts = {word: int(ends[word].sum()) for word in ("diverged", "unfinished")}
    counts["without both"] = int(
        (ends[[x, y]].isna().any(axis=1) & ~ends["diverged"] & ~ends["unfinished"]).sum()
    )
    ends = ends.dropna(subset=[x, y])
    for key in by:
        column(ends, key)
    if len(ends) < FEWEST:
        raise Refusal(f"x={x} y={y}: {len(ends)} runs have both at their end, and a rank needs {FEWEST}")
    fig, (ax,) = figure()
    groups = [g for _, g in ends.groupby(by, sort=True, dropna=False)] if by else [ends]
    for i, group in enumerate(groups):
        look = {**dots(i), "linestyle": "none", "markersize": 5, "alpha": 0.8}
        ax.plot(group[x], group[y], label=label(group, by), **look)
    ax.set(xlabel=title(x), ylabel=title(y))
    if log and (ends[x] > 0).all():
        log_axis(ax, "x")
    low, high = interval(ends[x].to_numpy(float), ends[y].to_numpy(float), resamples)
    within_95 = f" [{low:.2f}, {high:.2f}]" if len(ends) >= FEWEST_OF_INTERVAL else ""
    said = [f"Kendall's $\\tau$ = {tau(ends[x], ends[y]):.2f}{within_95}, {len(ends)} runs"]
    left_out = [f"{n} {word}" for word, n in counts.items() if n]
    said[0] += f"; left out: {', '.join(left_out)}" if left_out else ""
    within = [f"{key} {value:.2f}" for key, value in within_each(ends, x, y).items()]
    said += [f"within: {', '.join(within)}"] if within else []
    ax.set_title("\n".join(said), fontsize="small")
    if by:  # beside the axes: within them its markers would pass for runs
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    return fig


def tau(x: pd.Series, y: pd.Series) -> float:
    """Kendall's tau-b; NaN where one of the two is constant."""
    return float(kendalltau(x, y).statistic)


def tau_between(x: pd.Series, y: pd.Series, setting: pd.Series) -> float:
    """Kendall's tau-b over the pairs of runs that differ in the setting: those that differ in the seed alone
    say nothing of it. NaN where all of them are tied in x or in y."""
    i, j = np.triu_indices(len(x), 1)
    told = setting.astype(str).to_numpy()
    signs = [np.sign(v.to_numpy(float)[i] - v.to_numpy(float)[j])[told[i] != told[j]] for v in (x, y)]
    untied = np.prod([np.count_nonzero(of) for of in signs], dtype=float) ** 0.5
    return float(np.sum(signs[0] * signs[1]) / untied) if untied else float("nan")


def interval(x: np.ndarray, y: np.ndarray, resamples: int) -> tuple[float, float]:
    """The 95 % interval of Kendall's tau-b by the percentiles of a bootstrap over pairs, of a fixed seed;
    draws in which one of the two is constant are left out."""
    rng = np.random.default_rng(0)
    drawn = (rng.integers(len(x), size=len(x)) for _ in range(resamples))
    values = [float(kendalltau(x[i], y[i]).statistic) for i in drawn if len(set(x[i])) > 1 < len(set(y[i]))]
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def within_each(ends: pd.DataFrame, x: str, y: str) -> dict[str, float]:
    """For each setting but the seed that differs: the mean of Kendall's tau-b over the groups of runs that
    agree in all the others, of their pairs that differ in it."""
    differing = [
        key for key in settings(ends) if key != "seed" and ends[key].astype(str).nunique(dropna=False) > 1
    ]
    # a setting that another one decides (the rule by the method) is no axis of its own
    axes: list[str] = []
    for key in differing:
        split = ends[[*axes, key]].astype(str).drop_duplicates()
        if len(split) > len(ends[axes].astype(str).drop_duplicates() if axes else [0]):
            axes.append(key)
    out = {}
    for key in axes:
        others = [other for other in axes if other != key]
        groups = [g for _, g in ends.groupby(others, dropna=False)] if others else [ends]
        values = [tau_between(g[x], g[y], g[key]) for g in groups if g[key].astype(str).nunique() > 1]
        finite = [value for value in values if np.isfinite(value)]
        if finite:
            out[key] = float(np.mean(finite))
    return out
