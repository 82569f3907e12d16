"""What a claim's runs are judged by: functions of a frame, with a number, its spread over seeds, and what was
predicted.

A part is a function `(frame, *, ...) -> Finding`. The frame has one row a run and measured step: its columns,
the run's settings by their dotted names, and `part`, the name the claim gives the run; a check is `of` the
parts that match a regular expression, of all by default. A missing value (a run that diverged or is
unfinished) counts as no evidence: the check cannot hold, and its failure is not counted as a successful
control. Values are expressions in the columns, as `flow_clock / (lr ** 2 * step)`; a name with dots goes in
backticks. Sees no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from sharpcli.errors import Refusal

Reduce = Literal["last", "first", "max", "min", "median", "mean", "late"]


@dataclass(frozen=True)
class Finding:
    """Whether a check holds, what was measured (`spread`: one standard deviation over the runs, `runs` of
    them), what was asked, and whether every run had a number."""

    holds: bool
    measured: float | None
    spread: float | None
    runs: int
    asked: str
    evidence: bool = True

    @classmethod
    def nothing(cls, asked: str, runs: int) -> Finding:
        """No number, which is no evidence."""
        return cls(False, None, None, runs, asked, False)

    @property
    def text(self) -> str:
        """`0.2503 ± 0.0004`."""
        if self.measured is None:
            return "nothing measured"
        spread = "" if self.spread is None else f" ± {self.spread:.1g}"
        return f"{self.measured:.4g}{spread}"


def within(
    frame: pd.DataFrame,
    *,
    value: str,
    of: str,
    reduce: Reduce,
    statistic: Literal["each", "mean", "median", "share"],
    between: list[float | None],
    predicted: str | None,
) -> Finding:
    """`value`, reduced over each run's steps (`late`: the median over the last quarter), lies in `between`
    for `each` run, or in the `mean` or `median` over every part's runs; or the `share` of a part's runs where
    it is not 0 does."""
    runs = by_run(frame, value, of, reduce)
    counted = runs != 0 if statistic == "share" else runs
    if statistic == "each":
        inside = runs.map(lambda v: _inside(v, between))
    else:
        groups = counted.groupby(frame.groupby("run")["part"].first())
        of_parts = groups.agg(
            lambda v: v.median(skipna=False) if statistic == "median" else v.mean(skipna=False)
        )
        inside = of_parts.map(lambda v: _inside(float(v), between))
    asked = _asked(_subject(value, of, reduce, statistic), between, predicted)
    return _finding(bool(len(runs)) and bool(inside.all()), float(counted.mean()), runs, asked)


def _subject(value: str, of: str, reduce: str, statistic: str) -> str:
    """`late edge_share, mean of gd`: what a check is about, in a reader's words."""
    what = value if reduce == "last" else f"{reduce} {value}"
    if statistic != "each":
        return f"{what}, {statistic} of {of or 'all'}"
    return f"{what} of {of}" if of else what


def slope(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    of: str,
    reduce: Reduce,
    between: list[float | None],
    predicted: str | None,
) -> Finding:
    """The slope of log `y` in log `x` over the runs of `of`, each reduced over its steps, lies in `between`;
    its spread is the fit's standard error."""
    both = pd.DataFrame({"x": by_run(frame, x, of, reduce), "y": by_run(frame, y, of, reduce)})
    asked = _asked(f"the slope of log {y} in log {x}", between, predicted)
    if both["x"].nunique() < 3 or not (both > 0).all(axis=None):
        return Finding.nothing(asked, len(both))
    (steep, _), covariance = np.polyfit(
        np.log(both["x"]), np.log(both["y"]), 1, cov="unscaled" if len(both) < 4 else True
    )
    return Finding(_inside(steep, between), float(steep), float(covariance[0, 0] ** 0.5), len(both), asked)


def extrapolated(
    frame: pd.DataFrame,
    *,
    value: str,
    along: str,
    of: str,
    reduce: Reduce,
    between: list[float | None],
    predicted: str | None,
) -> Finding:
    """`value` as `along` goes to 0, by a straight line through the runs of `of`, lies in `between`; its
    spread is the intercept's standard error."""
    both = pd.DataFrame({"x": by_run(frame, along, of, reduce), "y": by_run(frame, value, of, reduce)})
    asked = _asked(f"{value} as {along} -> 0", between, predicted)
    if both["x"].nunique() < 2 or both.isna().any(axis=None):
        return Finding.nothing(asked, len(both))
    (_, start), covariance = np.polyfit(both["x"], both["y"], 1, cov="unscaled" if len(both) < 4 else True)
    return Finding(_inside(start, between), float(start), float(covariance[1, 1] ** 0.5), len(both), asked)


def ratio(
    frame: pd.DataFrame,
    *,
    value: str,
    of: str,
    to: str,
    reduce: Reduce,
    between: list[float | None],
    predicted: str | None,
) -> Finding:
    """The mean of `value` over the runs of `of`, over its mean over those of `to`, lies in `between`; its
    spread is a standard error: where both have the same seeds, once each, by leaving out one seed at a time
    (the jackknife), else as of independent means."""
    above, below = (by_run(frame, value, part, reduce) for part in (of, to))
    asked = _asked(f"{_subject(value, '', reduce, 'each')}, {of} over {to}", between, predicted)
    if above.isna().any() or below.isna().any() or below.mean() == 0:
        return Finding.nothing(asked, 0)
    quotient = float(above.mean() / below.mean())
    return Finding(_inside(quotient, between), quotient, _ratio_error(frame, above, below), len(above), asked)


def _ratio_error(frame: pd.DataFrame, above: pd.Series, below: pd.Series) -> float | None:
    """The standard error of mean(above) / mean(below)."""
    seeds = frame.groupby("run")["seed"].first().to_dict() if "seed" in frame else {}
    a, b = (s.rename(seeds).sort_index() for s in (above, below))
    n = len(a)
    if n > 1 and a.index.is_unique and a.index.equals(b.index):
        without = (a.sum() - a) / (b.sum() - b)
        return float(((n - 1) / n * ((without - without.mean()) ** 2).sum()) ** 0.5)
    noise = [s.std() / s.mean() / len(s) ** 0.5 for s in (above, below) if len(s) > 1]
    return abs(float(above.mean() / below.mean())) * math.hypot(*noise) if noise else None


def rank_correlation(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    over: list[str],
    of: str,
    reduce: Reduce,
    between: list[float | None],
    predicted: str | None,
) -> Finding:
    """Kendall's tau-b of `x` and `y` over the runs of `of`, each reduced over its steps, lies in `between`;
    its spread is one standard deviation over the seeds, each ranked by itself. With `over`, all settings that
    vary beside the seed, it is Jiang et al.'s granulated coefficient (2020, arXiv:1912.02178): for each of
    them the mean tau of the groups of runs that differ in it alone, and of these the mean. Refuses settings
    that are not there, and a group in which another varies.
    """
    both = pd.DataFrame({"x": by_run(frame, x, of, reduce), "y": by_run(frame, y, of, reduce)})
    asked = _asked(
        f"Kendall's tau of {x} and {y}" + (f" by {', '.join(over)}" if over else ""), between, predicted
    )
    if len(both) < 3 or both.isna().any(axis=None):
        return Finding.nothing(asked, len(both))
    keys = list(dict.fromkeys([*over, "seed"]))
    if missing := [name for name in keys if name not in frame]:
        raise Refusal(
            f"over={missing[0]}: no such setting; possible columns: {', '.join(map(str, frame.columns))}"
        )
    settings = (
        frame.groupby("run")[keys].first().map(str).loc[both.index]
    )  # a method without the setting has its own value
    tau = _granulated(both, settings, over)
    seeds = [
        _granulated(both[settings["seed"] == seed], settings, over) for seed in settings["seed"].unique()
    ]
    if not math.isfinite(tau):
        return Finding.nothing(asked, len(both))
    spread = float(np.std(seeds, ddof=1)) if len(seeds) > 1 else None
    return Finding(_inside(tau, between), tau, spread, len(both), asked)


def _granulated(both: pd.DataFrame, settings: pd.DataFrame, over: list[str]) -> float:
    if not over:
        return _tau(both)
    means: list[float] = []
    for name in over:
        others = settings.loc[both.index, [other for other in settings if other != name]].agg(
            "|".join, axis=1
        )
        taus: list[float] = []
        for _, group in both.groupby(others):
            if settings.loc[group.index, name].duplicated().any():
                raise Refusal(
                    f"over={over}: runs that agree in all of these differ in another setting; name it too"
                )
            taus += [_tau(group)] if len(group) > 1 else []
        means.append(sum(taus) / len(taus) if taus else math.nan)
    return sum(means) / len(means)


def _tau(both: pd.DataFrame) -> float:
    """Kendall's tau-b; 0 where one of the two is constant and orders nothing."""
    from scipy.stats import kendalltau

    tau = float(kendalltau(both["x"], both["y"]).statistic)
    return tau if math.isfinite(tau) else 0.0


def by_run(frame: pd.DataFrame, value: str, of: str, reduce: Reduce) -> pd.Series:
    """One number a run of the parts `of`: `value` over its steps, reduced; NaN where there is none."""
    rows = frame[frame["part"].str.fullmatch(of)] if of else frame
    if rows.empty:
        raise Refusal(
            f"of={of}: no such part of this claim; possible: {', '.join(sorted(frame['part'].unique()))}"
        )
    try:
        values: Any = rows.eval(value, engine="python")
    except (pd.errors.UndefinedVariableError, KeyError, SyntaxError, TypeError) as problem:
        raise Refusal(
            f"value={value}: {problem}; possible columns: {', '.join(map(str, rows.columns))}"
        ) from None
    try:
        rows = rows.assign(value=values.astype(float) if isinstance(values, pd.Series) else float(values))
    except (TypeError, ValueError):
        raise Refusal(f"value={value}: its values are no numbers") from None
    if reduce == "late":
        ends = rows.groupby("run")["step"].transform("max")
        rows, reduce = rows[rows["step"] >= 0.75 * ends], "median"
    if reduce == "last":
        reduced = rows.groupby("run", sort=False).tail(1).set_index("run")["value"]
    else:
        reduced = rows.groupby("run", sort=False)["value"].agg(
            reduce
        )  # leaves out missing steps, and keeps missing runs
    return reduced.astype(float).replace([np.inf, -np.inf], np.nan)


def _inside(value: float, between: list[float | None]) -> bool:
    low, high = between
    return bool(math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high))


def _finding(holds: bool, measured: float, runs: pd.Series, asked: str) -> Finding:
    with_number = runs.dropna()
    spread = float(with_number.std()) if len(with_number) > 1 else None
    evidence = len(with_number) == len(runs) > 0 and math.isfinite(measured)
    return Finding(
        holds, measured if math.isfinite(measured) else None, spread, len(with_number), asked, evidence
    )


def _asked(what: str, between: list[float | None], predicted: str | None) -> str:
    low, high = between
    if low is None:
        bounds = "a number" if high is None else f"≤ {high:g}"
    elif high is None:
        bounds = f"≥ {low:g}"
    else:
        half, middle = (high - low) / 2, (high + low) / 2
        bounds = f"{middle:g} ± {half:.1g}" if 0 < half < 1e-4 * abs(middle) else f"{low:g} to {high:g}"
    return f"{what}: {bounds}" + (f" (theory {predicted})" if predicted else "")
