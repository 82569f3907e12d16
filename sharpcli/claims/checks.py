"""Checks, by which a claim's runs are judged: each makes one number of them, with its spread over seeds, and
compares it with what was predicted.

A part is a function `(frame, *, ...) -> Finding`. The frame has one row for each run and measured step, with
the row's columns, the run's settings by their dotted names, and `part`, the name that the claim gives the
run. A check takes the runs whose part matches the regular expression `of`, or all of them. A missing value
(of a run that diverged or is unfinished) counts as no evidence: the check cannot hold, and where it is a
control its failure is no success. Values are expressions in the columns, such as `flow_clock / (lr ** 2 *
step)`; a name with dots goes in backticks. Imports no torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from sharpcli.errors import Refusal

KEPT_WHERE_DIVERGED = ("run", "step", "part", "diverged")  # columns that a run which diverged keeps
OF_A_SEED = ("seed", "init_from")  # settings in which runs of the same kind differ
LEAST_POINTS = 4  # through which a straight line's standard errors come from its residuals
Reduce = Literal["last", "first", "max", "min", "median", "mean", "late"]


@dataclass(frozen=True)
class Finding:
    """The result of a check: whether it `holds`, the number that was `measured` with its `spread` (one
    standard deviation over the `runs` runs, where the check does not say otherwise), the question that was
    `asked` as text, and whether every run had a number (`evidence`). `again` is the probability that as many
    runs with other seeds hold too, if the numbers are normal; None where their spread is not known.
    `half_width` is half the width of the 95
    % interval of `measured`, by Student's t with the degrees of freedom of its standard error; None where
    there is no such error, as where each run is judged by itself."""

    holds: bool
    measured: float | None
    spread: float | None
    runs: int
    asked: str
    evidence: bool = True
    half_width: float | None = None
    again: float | None = None

    @classmethod
    def nothing(cls, asked: str, runs: int) -> Finding:
        """The finding of a check that got no number, which is no evidence."""
        return cls(False, None, None, runs, asked, False)

    @property
    def text(self) -> str:
        """The number and its spread, as in `0.2503 ± 0.0004`."""
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
    """Whether `value`, reduced over each run's steps (`late` is the median over the last quarter of them),
    lies in `between`: for `each` run, or its `mean` or `median` over the runs of every part; or whether the
    `share` of each part's runs where it is not 0 does. What is measured is the statistic of the first part
    where it does not, else the mean over the parts."""
    by_runs = by_run(frame, value, of, reduce)
    numbers = by_runs != 0 if statistic == "share" else by_runs
    if statistic == "each":
        inside, measured = by_runs.map(lambda v: _inside(v, between)), float(numbers.mean())
    else:
        of_part = numbers.groupby(frame.groupby("run")["part"].first())
        statistics = of_part.agg(
            lambda v: v.median(skipna=False) if statistic == "median" else v.mean(skipna=False)
        )
        inside = statistics.map(lambda v: _inside(float(v), between))
        # of several parts that which decides: the first that is outside
        measured = float(statistics[~inside].iloc[0] if not inside.all() else statistics.mean())
    asked = _question(_subject(value, of, reduce, statistic), between, predicted)
    found = _finding(bool(len(by_runs)) and bool(inside.all()), measured, by_runs, asked)
    if not found.evidence or statistic not in ("each", "mean"):
        return found
    part_of = frame.groupby("run")["part"].first()
    bounded, bounds = by_runs, between
    if _stop_loss_decides(frame, value, by_runs.index, between):
        bounded, bounds = _shares_of_steps(frame, by_runs.index), [None, 0.0]
    settings = _settings(frame, by_runs.index)
    again = [
        _of_part_again(v, settings[v.index], bounds, statistic == "mean") for _, v in bounded.groupby(part_of)
    ]
    found = replace(found, again=None if None in again else math.prod(p for p in again if p is not None))
    if statistic == "each" or len(of_part) > 1 or found.spread is None:
        return found
    return replace(found, half_width=_student(found.runs - 1) * found.spread / found.runs**0.5)


def _stop_loss_decides(frame: pd.DataFrame, value: str, runs: pd.Index, between: list[float | None]) -> bool:
    """Whether `stop_loss` ended all these `runs` at a training loss in `between`: then another run is in
    `between` if it ends so too, however close to the bound it stops."""
    low, high = between
    if value != "train_loss" or low is not None or high is None or "stopped" not in frame:
        return False
    last = frame.groupby("run").tail(1).set_index("run").loc[runs]
    return bool(last["stopped"].eq(True).all() and (last["stop_loss"] <= high).all())


def _shares_of_steps(frame: pd.DataFrame, runs: pd.Index) -> pd.Series:
    """The logarithm of the share of its steps that each run took; NaN where they are counted in epochs."""
    last = frame.groupby("run").tail(1).set_index("run").loc[runs]
    return (last["step"] / pd.to_numeric(last["steps"], errors="coerce")).map(np.log)


def _settings(frame: pd.DataFrame, runs: pd.Index) -> pd.Series:
    """A text for each of these `runs`, the same for runs that differ in their seeds alone."""
    keys = [key for key in frame.attrs.get("settings", ()) if key not in OF_A_SEED]
    of_runs = frame.drop_duplicates("run").set_index("run").loc[runs, keys]
    return of_runs.map(str).agg("|".join, axis=1) if keys else pd.Series("", index=runs)


def _of_part_again(
    numbers: pd.Series, settings: pd.Series, between: list[float | None], of_mean: bool
) -> float | None:
    """The probability that as many further runs of a part have a mean, or each a number, in `between`, if the
    numbers of runs with equal `settings` are normal, with a variance that is the same for all settings. Where
    no two runs have equal settings, all are taken to differ by their seeds."""
    n = len(numbers)
    if n < 2 or numbers.isna().any():
        return None
    if settings.is_unique:
        settings = pd.Series("", index=settings.index)
    groups = numbers.groupby(settings)
    freedom = n - groups.ngroups
    spread = float((((numbers - groups.transform("mean")) ** 2).sum() / freedom) ** 0.5)
    if of_mean:
        return _again(float(numbers.mean()), spread * (2 / n) ** 0.5, freedom, between)
    of_settings = [
        _again(float(group.mean()), spread * (1 + 1 / len(group)) ** 0.5, freedom, between) ** len(group)
        for _, group in groups
    ]
    return math.prod(of_settings)


def _again(value: float, error: float, freedom: int, between: list[float | None]) -> float:
    """The probability that another value lies in `between`, whose difference from this one is `error` times a
    number by Student's t."""
    from scipy.stats import t

    if error == 0:
        return float(_inside(value, between))
    low, high = between
    below = 0.0 if low is None else float(t.cdf((low - value) / error, freedom))
    above = 0.0 if high is None else float(t.sf((high - value) / error, freedom))
    return max(0.0, 1 - below - above)


def _subject(value: str, of: str, reduce: str, statistic: str) -> str:
    """The quantity that a check is about, for a reader: `late edge_share, mean of gd`."""
    quantity = value if reduce == "last" else f"{reduce} {value}"
    if statistic != "each":
        return f"{quantity}, {statistic} of {of or 'all'}"
    return f"{quantity} of {of}" if of else quantity


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
    """Whether the slope of log `y` in log `x` over the runs of `of`, both reduced over each run's steps, lies
    in `between`; its spread is the fit's standard error."""
    pairs = _pairs(frame, x, y, of, reduce)
    asked = _question(f"the slope of log {y} in log {x}", between, predicted)
    if pairs["x"].nunique() < 3 or not (pairs > 0).all(axis=None):
        return Finding.nothing(asked, len(pairs))
    exponent, _, error, _ = _line(np.log(pairs["x"]), np.log(pairs["y"]))
    return _fitted(exponent, error, between, len(pairs), asked)


def _pairs(frame: pd.DataFrame, x: str, y: str, of: str, reduce: Reduce) -> pd.DataFrame:
    """`x` and `y` of each run of `of`, reduced over its steps."""
    return pd.DataFrame({"x": by_run(frame, x, of, reduce), "y": by_run(frame, y, of, reduce)})


def _line(x: pd.Series, y: pd.Series) -> tuple[float, float, float, float]:
    """The slope and the intercept of a straight line through the points, and their standard errors, of
    residuals of size 1 where there are less than 4 points."""
    (slope, intercept), covariance = np.polyfit(x, y, 1, cov="unscaled" if len(x) < LEAST_POINTS else True)
    return float(slope), float(intercept), float(covariance[0, 0] ** 0.5), float(covariance[1, 1] ** 0.5)


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
    """Whether `value` as `along` goes to 0, by a straight line through the runs of `of`, lies in `between`;
    its spread is the intercept's standard error."""
    pairs = _pairs(frame, along, value, of, reduce)
    asked = _question(f"{value} as {along} -> 0", between, predicted)
    if pairs["x"].nunique() < 2 or pairs.isna().any(axis=None):
        return Finding.nothing(asked, len(pairs))
    _, intercept, _, error = _line(pairs["x"], pairs["y"])
    return _fitted(intercept, error, between, len(pairs), asked)


def _fitted(value: float, error: float, between: list[float | None], points: int, asked: str) -> Finding:
    """The finding of a coefficient of a straight line through `points` points, with its standard error, which
    is one from 4 points on."""
    if points < LEAST_POINTS:
        return Finding(_inside(value, between), value, error, points, asked)
    return _estimated(value, error, points - 2, between, points, asked)


def _estimated(
    value: float, error: float, freedom: int, between: list[float | None], runs: int, asked: str
) -> Finding:
    """The finding of a value with a standard error, of so many degrees of freedom."""
    again = _again(value, error * 2**0.5, freedom, between)
    half_width = _student(freedom) * error
    return Finding(_inside(value, between), value, error, runs, asked, half_width=half_width, again=again)


def _student(freedom: int) -> float:
    """How many standard errors a 95 % interval reaches to either side."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))


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
    """Whether the mean of `value` over the runs of `of`, divided by its mean over the runs of `to`, lies in
    `between`. Its spread is a standard error: where both have the same seeds, each once, by leaving out one
    seed at a time (the jackknife), else that of independent means."""
    above, below = (by_run(frame, value, part, reduce) for part in (of, to))
    asked = _question(f"{_subject(value, '', reduce, 'each')}, {of} over {to}", between, predicted)
    if above.isna().any() or below.isna().any() or below.mean() == 0:
        return Finding.nothing(asked, 0)
    quotient = float(above.mean() / below.mean())
    error = _ratio_error(frame, above, below)
    # of independent means the degrees of freedom are at least those of the smaller sample
    freedom = min(len(above), len(below)) - 1
    if error is None:
        return Finding(_inside(quotient, between), quotient, None, len(above), asked)
    return _estimated(quotient, error, freedom, between, len(above), asked)


def _ratio_error(frame: pd.DataFrame, above: pd.Series, below: pd.Series) -> float | None:
    """The standard error of mean(above) / mean(below), or None where one of the two is of a single run."""
    seeds = frame.groupby("run")["seed"].first().to_dict() if "seed" in frame else {}
    a, b = (series.rename(seeds).sort_index() for series in (above, below))
    n = len(a)
    if n > 1 and a.index.is_unique and a.index.equals(b.index):
        without_one_seed = (a.sum() - a) / (b.sum() - b)
        return float(((n - 1) / n * ((without_one_seed - without_one_seed.mean()) ** 2).sum()) ** 0.5)
    if min(len(above), len(below)) < 2:  # of a single run nobody knows how far another would be
        return None
    relative = [s.std() / s.mean() / len(s) ** 0.5 for s in (above, below)]
    return abs(float(above.mean() / below.mean())) * math.hypot(*relative)


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
    """Whether Kendall's tau-b of `x` and `y` over the runs of `of`, both reduced over each run's steps, lies
    in `between`; its spread is one standard deviation over the seeds, the runs of each seed ranked by
    themselves, and its interval is by leaving out one seed at a time (the jackknife).

    With `over`, which names all settings that vary beside the seed, it is the granulated coefficient of Jiang
    et al. 2020, arXiv:1912.02178: for each of these settings the mean tau of the groups of runs that differ
    in it alone, and then the mean over the settings. Refuses settings that the runs do not have, and a group
    in which another setting varies.
    """
    pairs = _pairs(frame, x, y, of, reduce)
    by_settings = f" by {', '.join(over)}" if over else ""
    asked = _question(f"Kendall's tau of {x} and {y}{by_settings}", between, predicted)
    if len(pairs) < 3 or pairs.isna().any(axis=None):
        return Finding.nothing(asked, len(pairs))
    keys = list(dict.fromkeys([*over, "seed"]))
    if missing := [name for name in keys if name not in frame]:
        raise Refusal(
            f"over={missing[0]}: no such setting; possible columns: {', '.join(map(str, frame.columns))}"
        )
    # as text, so that a run whose method has no such setting has the value nan, equal to itself
    settings = frame.groupby("run")[keys].first().map(str).loc[pairs.index]
    tau = _granulated_tau(pairs, settings, over)
    of_seeds = [settings["seed"] == seed for seed in settings["seed"].unique()]
    by_seed = np.array([_granulated_tau(pairs[mine], settings, over) for mine in of_seeds])
    without = np.array([_granulated_tau(pairs[~mine], settings, over) for mine in of_seeds])
    if not math.isfinite(tau):
        return Finding.nothing(asked, len(pairs))
    n, known = len(of_seeds), by_seed[np.isfinite(by_seed)]
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else None
    if n < 2 or not np.isfinite(without).all():
        return Finding(_inside(tau, between), tau, spread, len(pairs), asked)
    error = float(((n - 1) / n * ((without - without.mean()) ** 2).sum()) ** 0.5)
    return replace(_estimated(tau, error, n - 1, between, len(pairs), asked), spread=spread)


def _granulated_tau(pairs: pd.DataFrame, settings: pd.DataFrame, over: list[str]) -> float:
    """The coefficient of `rank_correlation` for runs with numbers `pairs` and `settings`, both by run; NaN
    where no two runs differ in one of the settings `over` alone."""
    if not over:
        return _tau(pairs)
    means: list[float] = []
    for name in over:
        other_settings = settings.loc[pairs.index, [other for other in settings if other != name]]
        taus: list[float] = []
        for _, group in pairs.groupby(other_settings.agg("|".join, axis=1)):
            if settings.loc[group.index, name].duplicated().any():
                raise Refusal(
                    f"over={over}: runs that agree in all of these differ in another setting; name it too"
                )
            taus += [_tau(group)] if len(group) > 1 else []
        means.append(sum(taus) / len(taus) if taus else math.nan)
    return sum(means) / len(means)


def _tau(pairs: pd.DataFrame) -> float:
    """Kendall's tau-b of x and y; 0 where one of the two is constant and orders nothing, NaN of a single
    run."""
    from scipy.stats import kendalltau

    if len(pairs) < 2:
        return math.nan
    if pairs["x"].nunique() < 2 or pairs["y"].nunique() < 2:
        return 0.0
    tau = float(kendalltau(pairs["x"], pairs["y"]).statistic)
    return tau if math.isfinite(tau) else 0.0


def by_run(frame: pd.DataFrame, value: str, of: str, reduce: Reduce) -> pd.Series:
    """One number for each run of the parts `of`: the expression `value`, reduced over the run's steps; NaN
    where it has no finite number. In a run that diverged every column but `diverged` is NaN, except with the
    reduction `first`; `value` may put a number in its place, as `x.fillna(0)` does. Refuses an `of` that
    matches no part or is no regular expression, and an expression that is no number."""
    try:
        pattern = re.compile(of)
    except re.error as problem:
        raise Refusal(f"of={of}: no regular expression ({problem}); give names of parts, as a|b") from None
    rows = frame[frame["part"].map(lambda name: pattern.fullmatch(name) is not None)] if of else frame
    if rows.empty:
        raise Refusal(
            f"of={of}: no such part of this claim; possible: {', '.join(sorted(frame['part'].unique()))}"
        )
    if "diverged" in rows and reduce != "first":  # its last numbers are those before it did
        ended = rows["diverged"].groupby(rows["run"]).transform("any").astype(bool)
        named = [name for name in rows.columns if str(name) in value and name not in KEPT_WHERE_DIVERGED]
        rows = rows.assign(**{name: rows[name].mask(ended) for name in named}) if ended.any() else rows
    values = evaluated(rows, value, f"value={value}")
    try:
        rows = rows.assign(value=values.astype(float) if isinstance(values, pd.Series) else float(values))
    except (TypeError, ValueError, OverflowError):
        raise Refusal(f"value={value}: its values are no numbers") from None
    if reduce == "late":
        last_steps = rows.groupby("run")["step"].transform("max")
        rows, reduce = rows[rows["step"] >= 0.75 * last_steps], "median"
    if reduce == "last":
        reduced = rows.groupby("run", sort=False).tail(1).set_index("run")["value"]
    else:  # a step without a value is left out; a run without any keeps its row, as NaN
        reduced = rows.groupby("run", sort=False)["value"].agg(reduce)
    return reduced.astype(float).replace([np.inf, -np.inf], np.nan)


def evaluated(frame: pd.DataFrame, expression: str, where: str) -> Any:
    """An expression in the columns of a frame, a series or a number. Refuses, in the name of `where`, an
    expression that cannot be computed."""
    # pandas prepares every column that it is given, 60 ms of some hundred, whether it is used or not
    named = [name for name in frame.columns if str(name) in expression]
    try:
        return frame[named].eval(expression, engine="python")
    except Exception as e:  # pandas raises exceptions of many kinds for what it cannot compute
        raise Refusal(f"{where}: {e}; possible columns: {', '.join(map(str, frame.columns))}") from None


def _inside(value: float, between: list[float | None]) -> bool:
    """Whether a value is finite and within the bounds, of which None is no bound."""
    low, high = between
    return bool(math.isfinite(value) and (low is None or value >= low) and (high is None or value <= high))


def _finding(holds: bool, measured: float, by_runs: pd.Series, asked: str) -> Finding:
    """The finding with the spread over runs; NaN in `measured` or in the number of a run is no evidence."""
    numbers = by_runs.dropna()
    spread = float(numbers.std()) if len(numbers) > 1 else None
    evidence = len(numbers) == len(by_runs) > 0 and math.isfinite(measured)
    number = measured if math.isfinite(measured) else None
    return Finding(holds, number, spread, len(numbers), asked, evidence)


def _question(subject: str, between: list[float | None], predicted: str | None) -> str:
    """A check as text: its subject, the bounds (a narrow interval as `0.25 ± 1e-05`) and the prediction."""
    low, high = between
    if low is None:
        bounds = "a number" if high is None else f"≤ {high:g}"
    elif high is None:
        bounds = f"≥ {low:g}"
    else:
        half, middle = (high - low) / 2, (high + low) / 2
        bounds = f"{middle:g} ± {half:.1g}" if 0 < half < 1e-4 * abs(middle) else f"{low:g} to {high:g}"
    return f"{subject}: {bounds}" + (f" (theory {predicted})" if predicted else "")
