"""Plots. A part is a function `(frame, *, ...) -> Figure`; the frame has one row for each run and measured
step.

The columns are those of the runs' rows, `run`, `method`, `problem`, `lr`, `seed` and every other setting of
the run's config by its dotted name (`optimizer.rho`); `scores` holds the names of the problem's scores that a
reader wants to see, with blanks between them. A plot states with `need` which columns it cannot do without.
Figures are matplotlib's objects; pyplot's state is never touched.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, NullFormatter

from sharpcli.errors import Refusal, unknown_column

Drawn = tuple[dict[str, Any], str, pd.DataFrame]  # a run's look, its name in a legend and its rows
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe & Ito 2008
MARKERS = ("o", "s", "^", "D")  # of the curves after those that the palette tells apart
STYLES = len(PALETTE) * (1 + len(MARKERS))  # that tell curves apart
MANY = 6  # curves whose legend is within the axes at most
SMALLEST_PLAIN, LARGEST_PLAIN = 1e-3, 1e5  # labels of an axis that are written out
FIRST = (
    "method",
    "problem",
    "model",
    "data",
    "lr",
    "seed",
)  # settings that a run is known by; the seed after all others
SAID = ("tags", "note")  # what a user says of a run, which makes no two runs different
X_COLUMNS = ("epoch", "seconds", "step")  # that a run is drawn over
AXIS_LABELS = {  # of columns and of expressions in them; others are labelled by themselves
    "lambda_1": r"sharpness $\lambda_1$",
    "preconditioned_lambda_1": r"$\lambda_1$ of $P^{-1/2} H P^{-1/2}$",
    "adaptive_lambda_1": r"$\lambda_1$ of $T H T$",
    "train_loss": "training loss",
    "test_loss": "test loss",
    "mean_train_loss": "training loss, as predicted on average for central",
    "train_accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "trace": r"$\mathrm{Tr}\,H$",
    "recovery_error": r"recovery error $|w - w_\star|^2 / |w_\star|^2$",
    "epoch": "epoch",
    "step": "step",
    "seconds": "seconds",
    "lr": "step size",
    "flow_trace": r"$\mathrm{Tr}\,H$ on the manifold, at $\Phi(x)$",
    "flow_recovery_error": r"recovery error at $\Phi(x)$",
    "flow_recovery_error_first": "recovery error where gradient flow ends",
    "gain": "recovery error over gradient flow's",
    "lr * step": r"$\mathrm{lr}\,t$",
    "lr ** 2 * step": r"$\mathrm{lr}^2\,t$",
    "lr * `optimizer.rho` ** 2 * step": r"$\mathrm{lr}\,\rho^2\,t$",
    "`problem.scale`": "scale of the start",
    "projected_recovery_error": "recovery error, projected",
    "fall_over_flow": r"fall of $\mathrm{Tr}\,H$ over that of the flow",
    "below_edge": r"$2/\mathrm{lr} - \lambda_1$",
    "in_theory": "in theory",
    "edge_share": r"$\lambda_1$ over the edge of stability",
    "batch_share": r"batch sharpness over $2/\mathrm{lr}$",
    "over_least": r"$\mathrm{Tr}\,H$ over its least",
    "flat": r"$\mathrm{Tr}\,H$ over that at the smallest lr",
    "share_of_run": "share of the run",
    "start": "number of the start",
    "gap": "accuracy on training less test images",
    "keskar_sharpness": "Keskar's sharpness",
    "projected_trace": r"$\mathrm{Tr}\,H$, projected",
    "projected_test_error": "test error, projected",
    "flow_distance": r"$|w - \Phi(w)|^2$",
    "manifold_distance": r"$|w - w^*|$, $w^*$ the nearest interpolator by Newton",
    "projected_distance": r"$|w - w^*|$, $w^*$ where descent ends",
    "l1_norm": r"$\ell_1$ norm",
    "flow_l1": r"$\ell_1$ norm at $\Phi(x)$",
    "nuclear_norm": "nuclear norm",
    "alignment_share": "of the gradient",
    "sam_alignment_share": "of SAM's gradient",
    "lr_trace": r"$\mathrm{lr}\,\mathrm{Tr}\,H$ at the start",
}


def figure(rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure, and its `rows` axes from top to bottom, which share their x; as wide as the look says."""
    width = rcParams["figure.figsize"][0]
    fig = Figure(figsize=(width, (1.2 + 2.9 * rows) * (width / 6.4) ** 0.75), layout="constrained", dpi=150)
    axes = fig.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.5)
    return fig, list(axes)


def need(frame: pd.DataFrame, column: str, measure: str) -> None:
    """Refuses runs without any value in `column`, and says which measure adds it."""
    if column not in frame or frame[column].isna().all():
        run = str(frame["run"].iloc[0]).partition("#")[0]
        scores = str(frame["scores"].iloc[0]).split() if "scores" in frame else []
        if measure == "scores" and scores:
            raise Refusal(f"{run} has no {column}: its problem's scores are {', '.join(scores)}")
        raise Refusal(f"{run} has no {column}; sharp measure {run} measure=[{measure}] adds it")


def need_axis(frame: pd.DataFrame, x: str) -> None:
    """Refuses an `x` that a run cannot be drawn over."""
    if x not in X_COLUMNS or x not in frame:
        raise Refusal(f"x={x}: no such column in these runs; possible: {', '.join(X_COLUMNS)}")


def column(frame: pd.DataFrame, value: str) -> pd.Series:
    """The value of an expression in the columns for every row, such as `lr * step`; a number is that number
    in every row. Refuses an unknown column, and what is no expression."""
    if value in frame:  # also a dotted name, such as optimizer.rho
        return frame[value]
    try:
        values: Any = frame.eval(value, engine="python")
    except Exception as problem:  # pandas raises exceptions of many kinds for what it cannot read
        missing = re.search(r"name '([^']+)' is not defined", str(problem))
        known = [str(c) for c in frame if frame[c].notna().any()]
        if missing or value.isidentifier():
            raise unknown_column(missing[1] if missing else value, known) from None
        raise unknown_column(value, known, "cannot be read") from None
    return values if isinstance(values, pd.Series) else pd.Series(float(values), index=frame.index)


# --- what curves are called, and how they look ---


def settings(frame: pd.DataFrame) -> list[str]:
    """The settings among the columns of a frame, the ones first that a reader knows a run by."""
    known = [key for key in frame.attrs.get("settings", FIRST) if key in frame and key not in SAID]
    first = [key for key in FIRST if key in known and key != "seed"]
    others = [key for key in known if key not in FIRST]
    return [*first, *others, *(["seed"] if "seed" in known else [])]


def telling(frame: pd.DataFrame, apart_from: Sequence[str] = ()) -> list[str]:
    """The fewest settings, taken in turn, that tell the runs of a frame apart as far as all of them do; none
    of `apart_from`."""
    known = [key for key in settings(frame) if key not in apart_from]
    runs = frame["run"].drop_duplicates()
    if len(runs) < 2:
        return []
    by_run = frame.loc[runs.index, known].astype(str)
    chosen: list[str] = []
    groups = 1
    for key in known:
        if by_run[key].nunique() == 1:
            continue
        more = len(by_run[[*chosen, key]].drop_duplicates())
        if more > groups:
            chosen, groups = [*chosen, key], more
        if groups == len(by_run):
            break
    return chosen


def label(rows: pd.DataFrame, by: Sequence[str]) -> str:
    """The settings `by` of the first of some rows, as a legend shows them: `sam, lr 0.05, rho 0.1`."""
    ends = [key.rpartition(".")[2] for key in by]
    said = [
        _setting(end if ends.count(end) == 1 or end == "_target_" else key, rows[key].iloc[0])
        for key, end in zip(by, ends, strict=True)
        if not is_missing(rows[key].iloc[0])
    ]
    return ", ".join(said)


def seeds_of(frame: pd.DataFrame, by: Sequence[str], how: str) -> list[pd.DataFrame]:
    """The rows of a frame in groups of runs that agree in the settings `by` and differ in their seeds alone.
    Refuses a group whose runs differ in anything else, with the settings to add to `by` and `how` else to
    proceed; and a setting that no run has. With `by` empty all runs are one group."""
    for key in by:
        column(frame, key)
    if not by:
        return [frame]
    groups = [group for _, group in frame.groupby(list(by), sort=True, dropna=False)]
    for group in groups:
        group.attrs = frame.attrs
        if mixed := telling(group, apart_from=["seed"]):
            raise Refusal(
                f"by=[{','.join(by)}]: the runs of {label(group, by)} differ in {', '.join(mixed)} too; draw "
                f"them apart by by=[{','.join([*by, *mixed])}]{how}"
            )
    return groups


def finals(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """A row for each run: its settings, and of each of the `columns` (or expressions in them) the value at
    the run's last step that has one. A run that diverged has no value of what was measured before, and of
    those that are unfinished none counts beside runs that have ended; the columns `diverged` and `unfinished`
    say which they are."""
    begun = set(frame.attrs.get("unfinished", ()))
    names = [str(run).partition("#")[0] for run in frame["run"].unique()]
    left_out = begun if any(name not in begun for name in names) else set()
    values = {name: column(frame, name) for name in columns}
    rows = []
    for _, of_run in frame.groupby("run", sort=False):
        ended = "diverged" in frame and bool(of_run["diverged"].eq(True).any())
        unfinished = str(of_run["run"].iloc[0]).partition("#")[0] in left_out
        last = of_run.iloc[-1].to_dict() | {"diverged": ended, "unfinished": unfinished}
        for name, series in values.items():
            known = series.loc[of_run.index].dropna()
            last[name] = float("nan") if ended or unfinished or known.empty else known.iloc[-1]
        rows.append(last)
    out = pd.DataFrame(rows)
    out.attrs = frame.attrs
    return out


def title(name: str) -> str:
    """What an axis over a column or an expression is called."""
    return AXIS_LABELS.get(name, name)


def ink() -> Any:
    """The colour of text, which every theory line has: dark on a light ground and light on a dark one."""
    return rcParams["text.color"]


def is_missing(value: Any) -> bool:
    """Whether a setting is one that a run does not have."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _setting(key: str, value: Any) -> str:
    if key in ("method", "problem", "model", "data"):
        return str(value)
    if key == "_target_":
        return str(value).rpartition(".")[2]
    return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"


def style(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th curve: the colours of `PALETTE`, then again with a marker."""
    again = i // len(PALETTE)
    marker = {} if not again else {"marker": MARKERS[(again - 1) % len(MARKERS)], "markevery": 0.1}
    colours = (*PALETTE[:-1], ink())  # the last colour is that of text
    return {"color": colours[i % len(PALETTE)], "markersize": 3, **marker}


def dots(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th group of points: the colours of `PALETTE`, then again with another
    marker."""
    return {"color": style(i)["color"], "marker": MARKERS[i // len(PALETTE) % len(MARKERS)]}


def each_run(frame: pd.DataFrame) -> list[Drawn]:
    """For each run its style, a legend label (the shortest that tells the runs apart, else the run's name),
    and its rows. Of more runs than there are looks a legend names the first, and says how many more there
    are: matplotlib leaves out labels that begin with an underscore."""
    by = telling(frame)
    runs = [(str(run), rows) for run, rows in frame.groupby("run", sort=False)]
    names = [label(rows, by) or run for run, rows in runs]
    alike = {name for name, times in Counter(names).items() if times > 1}  # told apart by the directory alone
    shown = [
        f"{name} ({run[-8:]})" if name in alike else name for name, (run, _) in zip(names, runs, strict=True)
    ]
    if left := max(0, len(runs) - STYLES):
        shown[STYLES:] = [f"and {left} more, in the same looks", *("_" for _ in range(left - 1))]
    return [(style(i), name, rows) for i, (name, (_, rows)) in enumerate(zip(shown, runs, strict=True))]


def having(rows: pd.DataFrame, y: str) -> pd.DataFrame:
    """The rows that have a value of `y`."""
    if y not in rows:
        return rows.iloc[:0]
    return rows[rows[y].notna()] if rows[y].hasnans else rows


def curves(frame: pd.DataFrame, y: str, runs: Sequence[Drawn] | None = None) -> Iterator[Drawn]:
    """Each run as `each_run` gives it, or of these `runs`, with the rows that have a value of `y`."""
    for look, name, of_run in each_run(frame) if runs is None else runs:
        rows = having(of_run, y)
        yield seen(look, len(rows)), name, rows


def seen(look: dict[str, Any], points: int) -> dict[str, Any]:
    """The look of a curve of so many points: of a single one a dot, since no line leads through it."""
    return {"marker": ".", **look, "markersize": 6} if points == 1 else look


def log_axis(ax: Axes, axis: str, between: bool = True) -> None:
    """Makes an axis logarithmic, with plain numbers where they are short, and (unless `between` is off, as in
    narrow axes) between the powers of ten where it spans few of them."""
    ax.set(**{f"{axis}scale": "log"})
    getattr(ax, f"{axis}axis").set_major_formatter(_Plain(labelOnlyBase=True))
    minor = _Plain(minor_thresholds=(2, 0.5)) if between else NullFormatter()
    getattr(ax, f"{axis}axis").set_minor_formatter(minor)


class _Plain(LogFormatterSciNotation):
    """0.06 and not 6e-02 or 6 x 10^-2, which would run into its neighbour; powers beyond as 10^6."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label at x; empty where there is to be none."""
        said = str(super().__call__(x, pos))
        return f"{x:g}" if said and SMALLEST_PLAIN <= abs(x) <= LARGEST_PLAIN else said


def legend(ax: Axes) -> None:
    """The legend of an axes: within it, or where there are many curves beside it."""
    handles, names = ax.get_legend_handles_labels()
    if not names:
        return
    if len(names) <= MANY:
        ax.legend(frameon=False, fontsize="small")
        return
    fig: Any = ax.figure
    width, height = fig.get_size_inches()
    fig.set_size_inches(width + 0.065 * max(map(len, names)) + 0.5, height)
    fig.legend(handles, names, loc="outside right upper", frameon=False, fontsize="small")
