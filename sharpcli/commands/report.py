"""What commands print about runs: the end of a run, tables of many, a row as a table, warnings. Sees no
torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from statistics import mean, median, stdev
from typing import Any

from sharpcli.errors import Refusal, printable
from sharpcli.jsonl import Row, is_number
from sharpcli.run import Run, score_names

# the endings of columns that say something of another column: its error, its cost
ABOUT_A_VALUE = ("_error", "_stderr", "_residual", "_products", "_gradients", "_seconds", "_examples")
LAST_QUARTER = 0.25
FLAT = 0.05  # relative change of a curve's median from half to half that counts as none
DRIFT = 0.01  # share of its value by which a curve that has settled may still rise or fall
FEWEST = 4  # values of a stretch of which it is said whether it is flat
MOST_SHOWN = 8  # settings of replicas that the end of a run shows
SHOWN = 4  # values of a row without scores that the end of a run shows
OF_LOOP = ("step", "epoch", "lr_now", "edge", "base_edge", "added_curvature", "seconds", "lambda_1")


def complain(message: str) -> None:
    """A warning, one line on standard error."""
    note(f"sharp: {message}")


def say(line: str) -> None:
    """A result, one line on standard output. Refuses where that takes no more."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as problem:
        raise Refusal(f"standard output: cannot write ({problem.strerror or problem}); make room") from None


def note(message: str) -> None:
    """A remark, one line on standard error; lost where that takes no more: no run is to end of it."""
    with suppress(OSError):
        print(printable(message), file=sys.stderr, flush=True)


def settled(run: Run) -> list[str]:
    """The last scores of a run, of replicas in a line for each setting in which they differ, and `lambda_1
    settled at ...` beside the edge of stability that its optimizer states: the median of the last quarter of
    the steps."""
    if (replicas := run.replicas) > 1:
        return spread(run, replicas)
    last = run.last()
    if last is None:
        return []
    shown = scores(last, score_names(run)) or measured(last)
    out = [f"at step {last['step']}: {shown}"] if shown else []
    rows = [row for row in run.logged() if is_number(row.get("lambda_1")) and is_number(row.get("lr_now"))]
    late = [row["lambda_1"] for row in rows if row["step"] >= (1 - LAST_QUARTER) * last["step"]]
    if not late or last.get("diverged"):
        return out
    if len({row["lr_now"] for row in rows}) > 1:  # under a schedule nothing settles
        return [*out, f"lambda_1 ended at {late[-1]:.4g}, lr at {rows[-1]['lr_now']:.4g}"]
    if not is_flat(late):
        rises = ", not settled yet" if len(late) >= FEWEST else ""  # of fewer values nothing is known
        return [*out, f"lambda_1 ended at {late[-1]:.4g}{edges(rows[-1])}{rises}"]
    return [
        *out,
        f"lambda_1 settled at {median(late):.4g}{edges(rows[-1])} (median over the last quarter of the "
        f"steps)",
    ]


def is_flat(values: Sequence[float]) -> bool:
    """Whether the medians of the two halves of a stretch of a curve agree to `FLAT`; not where it has fewer
    than `FEWEST` values, or rises or falls all the way by more than `DRIFT`."""
    if len(values) < FEWEST:
        return False
    one_way = sorted(values) in ([*values], [*values][::-1])
    if one_way and abs(values[-1] - values[0]) > DRIFT * max(map(abs, values)):
        return False
    half = len(values) // 2
    first, second = median(values[:half]), median(values[half:])
    return abs(first - second) <= FLAT * max(abs(first), abs(second))


def measured(row: Row) -> str:
    """The first values that a row without scores has, as text."""
    return scores(row, measured_names(row))


def measured_names(row: Row) -> list[str]:
    """The names of the first values that a row without scores has."""
    values = {key: value for key, value in row.items() if is_number(value) and key not in OF_LOOP}
    return [key for key in values if not key.endswith(ABOUT_A_VALUE)][:SHOWN]


def edges(row: Row) -> str:
    """`, 2/lr = 10`: the edges of stability that a row states, by the formula where they are gradient
    descent's, less the curvature that objectives add."""
    out, added = "", row.get("added_curvature", 0.0)
    less = f" less {added:.4g} of the objectives" if added else ""
    for key, name in (("edge", "edge of this optimizer"), ("base_edge", "edge of its base")):
        if is_number(edge := row.get(key)):
            out += f", {'2/lr' if key == 'edge' and is_two_over_lr(row) else name} = {edge:.4g}{less}"
    return out


def is_two_over_lr(row: Row) -> bool:
    """Whether the edge that a row states is gradient descent's, 2/lr."""
    edge = row.get("edge")
    return edge is not None and row["lr_now"] > 0 and abs(edge - 2 / row["lr_now"]) <= 1e-9 * edge


def spread(run: Run, replicas: int) -> list[str]:
    """The scores at the last step as mean ± standard deviation over seeds, for each combination of the other
    settings in which replicas differ (the first `MOST_SHOWN`), and how many have diverged."""
    wanted = run.config["replicas"]
    over = [setting for setting in wanted if setting != "seed"] if isinstance(wanted, Mapping) else []
    groups: dict[str, list[Row]] = {}
    for row in run.logged()[-replicas:]:
        groups.setdefault(" ".join(f"{setting}={row[setting]}" for setting in over), []).append(row)
    about = {"replica", "seed", *over}
    out = [_of_seeds(run, f", {settings}" if over else "", rows, about) for settings, rows in groups.items()]
    left = len(out) - MOST_SHOWN
    return out[:MOST_SHOWN] + ([f"and {left} more settings: sharp plot table {run.path}"] if left > 0 else [])


def _of_seeds(run: Run, settings: str, replicas: Sequence[Row], about: Set[str]) -> str:
    """The line of replicas of the same settings; columns `about` replicas are no scores."""
    rows = [row for row in replicas if not row.get("diverged")]
    diverged = f" ({len(replicas) - len(rows)} diverged)" if len(rows) < len(replicas) else ""
    several = f", {len(replicas)} replicas" if len(replicas) > 1 or not settings else ""
    out = [f"at step {run.steps}{settings}{several}{diverged}"]
    names = [name for name in score_names(run) if any(name in row for row in rows)]
    if rows and not names:
        names = measured_names({key: value for key, value in rows[-1].items() if key not in about})
    for name in names:
        if values := [row[name] for row in rows if is_number(row.get(name))]:
            out.append(f"{name} {mean(values):.4g}" + (f" ± {stdev(values):.1g}" if len(values) > 1 else ""))
    return "  ".join(out)


def scores(row: Row, names: Sequence[str]) -> str:
    """The scores of these names in a row, as text."""
    return "  ".join(f"{name} {row[name]:.4g}" for name in names if is_number(row.get(name)))


def number(value: Any) -> str:
    """A value in four digits; a dash for none."""
    if value is None:
        return "-"
    if is_number(value):
        return f"{value:.4g}"
    return printable(str(value).lower())


def aligned(rows: Sequence[Sequence[str]], left: int = 2) -> list[str]:
    """Rows of cells as lines of columns: the first `left` columns to the left, the others, numbers, to the
    right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def table(row: Row) -> list[str]:
    """A measured row as lines: each value with its error, then what its measure spent."""
    rows: list[tuple[str, ...]] = [("", "value", "error", "residual")]
    for key, value in row.items():
        if key in ("step", "params", "of") or key.endswith(ABOUT_A_VALUE) or isinstance(value, list):
            continue
        error, residual = _error(row, key), row.get(f"{key}_residual")
        cells = (key, _six_digits(value), "" if error is None else f"± {error:.2g}")
        rows.append((*cells, "" if residual is None else f"{residual:.1g}"))
    if not any(cells[3] for cells in rows[1:]):
        rows = [cells[:3] for cells in rows]
    spent: list[tuple[str, ...]] = [("", "products", "gradients", "seconds", "examples")]
    for key in row:
        if key.endswith("_seconds"):
            name = key.removesuffix("_seconds")
            costs = (
                number(row.get(f"{name}_{what}")) for what in ("products", "gradients", "seconds", "examples")
            )
            spent.append((name, *costs))
    costs_table = ["", *aligned(spent, 1)] if len(spent) > 1 else []
    return [f"  {line}" for line in [*aligned(rows), *costs_table]]


def layers(rows: Sequence[Row]) -> list[str]:
    """One line for each row's `params`, the values with their errors as columns."""
    keys = [
        key
        for key, value in rows[0].items()
        if key not in ("step", "params")
        and not key.endswith((*ABOUT_A_VALUE, "_converged"))
        and not isinstance(value, list)
    ]
    out = [("layer", *keys)]
    for row in rows:
        errors = [_error(row, key) for key in keys]
        values = [number(row.get(key)) for key in keys]
        cells = [v if e is None else f"{v} ± {e:.1g}" for v, e in zip(values, errors, strict=True)]
        out.append((row["params"], *cells))
    return [f"  {line}" for line in aligned(out, 1)]


def _error(row: Row, key: str) -> float | None:
    return row.get(f"{key}_error", row.get(f"{key}_stderr"))


def _six_digits(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else number(value)
