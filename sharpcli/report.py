"""What runs say: the last words of one, a table of many. Sees no torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

import yaml

from sharpcli.run import Row, Run

ABOUT = ("_error", "_stderr", "_residual", "_products", "_gradients", "_seconds", "_examples")  # what is said of a value
SCORES = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "recovery_error", "distance")
COLUMNS = ("run", "status", "step", "train_loss", "test_accuracy", "lambda_1")


def settled(run: Run, share: float = 0.25) -> list[str]:
    """`lambda_1 settled at ..., 2/lr = ...`: the median over the last quarter of the steps, beside the edge."""
    if (replicas := run.provenance.get("replicas", 1)) > 1:
        return [spread(run, replicas)]
    rows = [row for row in run.logged() if row.get("lambda_1") is not None]
    last = run.last()
    out = []
    if last is not None and (shown := scores(last)):
        out.append(f"at step {last['step']}: {shown}")
    late = [row["lambda_1"] for row in rows if row["step"] >= (1 - share) * run.steps]
    if late and last is not None and not last.get("diverged"):
        edge, lr = rows[-1].get("edge"), rows[-1]["lr"]
        beside = f", 2/lr = {2 / lr:.4g}" if lr > 0 else ""
        if edge is not None and lr > 0 and abs(edge - 2 / lr) > 1e-9 * edge:
            beside += f", edge of this optimizer = {edge:.4g}"
        if len({row["lr"] for row in rows}) > 1:  # under a schedule nothing settles
            out.append(f"lambda_1 ended at {late[-1]:.4g}, lr at {lr:.4g}")
        else:
            out.append(f"lambda_1 settled at {median(late):.4g}{beside} (median over the last {share:.0%} of the steps)")
    return out


def spread(run: Run, replicas: int) -> str:
    """The scores at the last step as mean ± standard deviation over the replicas, and how many have diverged."""
    rows = [row for row in run.logged()[-replicas:] if not row.get("diverged")]
    out = [
        f"at step {run.steps}, {replicas} replicas" + (f" ({replicas - len(rows)} diverged)" if len(rows) < replicas else "")
    ]
    for name in SCORES:
        if values := [row[name] for row in rows if row.get(name) is not None]:
            out.append(f"{name} {mean(values):.4g} ± {pstdev(values):.1g}")
    return "  ".join(out)


def scores(row: Row) -> str:
    """The scores of a row in words."""
    return "  ".join(f"{name} {row[name]:.4g}" for name in SCORES if row.get(name) is not None)


def listing(runs: Iterable[Run]) -> list[tuple[str, ...]]:
    """A row of words for each run, for `sharp ls`; reads one small file and the end of another."""
    out = []
    for run in runs:
        last = run.last() or {}
        cells = [run.name, run.status_after(last), f"{last.get('step', 0)}/{run.steps}"]
        out.append((*cells, *(number(last.get(key)) for key in COLUMNS[3:])))
    return out


def number(value: Any) -> str:
    """Four digits, or a dash."""
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:.4g}"


def aligned(rows: Sequence[Sequence[str]], words: int = 2) -> list[str]:
    """Rows as lines of columns: the first `words` to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i < words else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def table(row: Row) -> list[str]:
    """A measured row as lines: each value with its error, then what its measure spent."""
    rows: list[tuple[str, ...]] = [("", "value", "error", "residual")]
    for key, value in row.items():
        if key in ("step", "params", "of") or key.endswith(ABOUT) or isinstance(value, list):
            continue
        error = row.get(f"{key}_error", row.get(f"{key}_stderr"))
        rows.append((key, _six(value), "" if error is None else f"± {error:.2g}", _two(row.get(f"{key}_residual"))))
    if not any(cells[3] for cells in rows[1:]):
        rows = [cells[:3] for cells in rows]
    spent: list[tuple[str, ...]] = [("", "products", "gradients", "seconds", "examples")]
    for key in row:
        if key.endswith("_seconds"):
            name = key.removesuffix("_seconds")
            cells = (number(row.get(f"{name}_{what}")) for what in ("products", "gradients", "seconds", "examples"))
            spent.append((name, *cells))
    return [f"  {line}" for line in [*aligned(rows), *(["", *aligned(spent, 1)] if len(spent) > 1 else [])]]


def layers(rows: Sequence[Row]) -> list[str]:
    """One line for each row's `params`, the values with their errors as columns."""
    keys = [
        key
        for key, value in rows[0].items()
        if key not in ("step", "params") and not key.endswith((*ABOUT, "_converged")) and not isinstance(value, list)
    ]
    out = [("layer", *keys)]
    for row in rows:
        errors = (row.get(f"{key}_error", row.get(f"{key}_stderr")) for key in keys)
        cells = (number(row.get(key)) + ("" if e is None else f" ± {e:.1g}") for key, e in zip(keys, errors, strict=True))
        out.append((row["params"], *cells))
    return [f"  {line}" for line in aligned(out, 1)]


def _six(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else number(value) if value is not None else "-"


def _two(value: Any) -> str:
    return "" if value is None else f"{value:.1g}"


def about_group(folder: Path) -> str:
    """The choices of a config group, each with the comment at the head of its yaml or the first line of its module."""
    rows = []
    for file in sorted(folder.glob("*.yaml")):
        text = file.read_text()
        comments = [line[2:] for line in text.splitlines() if line.startswith("# ") and "@package" not in line]
        target = re.search(r"_target_: sharpcli\.(\S+)\.\w+$", text, re.M)
        rows.append((file.stem, " ".join(comments) or (headline(target[1]) if target else "")))
    return "\n".join(aligned(rows)) if rows else f"{folder.name}: no choices"


def headline(module: str) -> str:
    """The first sentence of a module of this package, read and not imported."""
    file = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py")
    words = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0]
    return " ".join(words.split())


def about_run(run: Run) -> str:
    """Everything about a run, as yaml."""
    about = {
        "run": str(run.path),
        "status": run.status,
        "config": run.config,
        "provenance": run.provenance,
        "last row": run.rows()[-1] if run.rows() else None,
        "checkpoints": ", ".join(map(str, run.checkpoints())),
    }
    return yaml.safe_dump(about, sort_keys=False, allow_unicode=True).rstrip()
