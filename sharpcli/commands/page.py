"""`sharp report`: runs, verdicts and studies as one self-contained page, which needs no network and can be
read without JavaScript.

The page holds the table of the runs and static figures as text. What is interactive (curves, landscapes) is
drawn by Plotly, whose code the page holds compressed: 4.8 MB of it are 1.9 MB so, which every browser since
2023 unpacks itself.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpcli.commands.index import record
from sharpcli.commands.landscapes import FOLDER, PLANE, Answer
from sharpcli.commands.report import number
from sharpcli.errors import Refusal, printable
from sharpcli.frames import frame_of, meeting
from sharpcli.jsonl import replace, writing
from sharpcli.plots import PALETTE, curves, is_missing, telling
from sharpcli.provenance import commit
from sharpcli.run import Run
from sharpcli.runs_dir import find_all, in_directory

POINTS = 250  # of a curve at most; more cannot be told apart on a screen
CURVES = 12  # columns that curves can be drawn of, at most
FIRST_COLUMNS = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "lambda_1", "trace")
LAST_COLUMNS = ("train_loss", "test_accuracy", "recovery_error", "lambda_1", "trace")  # of the table
DASHES = ("solid", "dash", "dot", "dashdot")  # Plotly's names, once the colours have been used
DIGITS = 5  # significant ones that a curve keeps
TEMPLATE = Path(__file__).parent / "templates" / "page.html"


@dataclass(frozen=True)
class Figure:
    """A picture for the page: its title, lines of text, the file of a PNG; `good` says how its verdict is
    shown, None for no verdict."""

    title: str
    text: Sequence[str]
    image: Path | None = None
    verdict: str = ""
    good: bool | None = None


@dataclass(frozen=True)
class Content:
    """What a page shows: the `table` and what `problems` there were with runs, their `curves`, their
    `landscapes`, and `figures` of claims and studies."""

    head: list[str]
    table: list[dict[str, Any]]
    problems: list[str]
    differ: list[str]
    runs: list[dict[str, Any]] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    landscapes: list[dict[str, Any]] = field(default_factory=list)
    static: str = ""


def content(runs: Sequence[Run], where: str | None = None, static: bool = True) -> Content:
    """What a page shows of runs; of those that meet a condition. A damaged, changed, running, diverged or
    empty run is in the table with its status, and its problem in `problems`. `static`: with a picture for
    readers without JavaScript. Refuses a condition that no row meets."""
    problems: list[str] = []
    frame = frame_of(runs, problems.append)
    problems += frame.attrs["notes"]
    if where is not None and not frame.empty:
        frame = meeting(frame, where)
        kept = {str(name).partition("#")[0] for name in frame["run"].unique()}
        runs = [run for run in runs if run.name in kept]
    differ = [] if frame.empty else telling(frame)
    ends = {} if frame.empty else _ends(frame)
    table = [_row(run, ends.get(run.name, {}), problems.append) for run in runs]
    columns = [] if frame.empty else _columns(frame)
    last = [name for name in LAST_COLUMNS if any(row["last"].get(name) is not None for row in table)]
    head = ["run", "status", "step", *differ, *last]
    for row in table:
        row["cells"] = [row["name"], row["status"], row["step"]]
        row["cells"] += [number(row["last"].get(key)) for key in differ]
        row["cells"] += [number(row["last"].get(key)) for key in last]
        row["keys"] = [_key(cell) for cell in row["cells"]]
    frame = frame if frame.empty else _thinned(frame)
    return Content(
        head,
        table,
        [p for p in dict.fromkeys(problems) if f"{p}; left out" not in problems],
        differ,
        [] if frame.empty else _series(frame, columns),
        columns,
        [answer for run in runs for answer in _landscapes(run)],
        _picture(frame) if static and not frame.empty else "",
    )


def page(
    title: str, command: Sequence[str], shown: Content, figures: Sequence[Figure] = (), live: bool = False
) -> str:
    """The page as HTML. `live`: it asks for `data.json` beside it again and again, as `sharp board` serves
    it."""
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    interactive = bool(shown.runs or shown.landscapes or live)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title,
        command=shlex.join(command),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        commit=commit() or "unknown",
        shown=shown,
        figures=[(figure, _image(figure.image)) for figure in figures],
        data=_packed(json.dumps(data(shown), allow_nan=False)),
        plotly=_packed(get_plotlyjs()) if interactive else "",
        live=live,
    )


def data(shown: Content) -> dict[str, Any]:
    """What the page's scripts draw, as JSON's types."""
    return {
        "head": shown.head,
        "table": [[row["cells"], row["keys"], row["status"]] for row in shown.table],
        "problems": shown.problems,
        "runs": shown.runs,
        "columns": shown.columns,
        "landscapes": shown.landscapes,
    }


def _ends(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What the last row of each run has, by the run's name; none of replicas, of which `record` has the
    mean."""
    rows = frame.drop_duplicates("run", keep="last").to_dict("records")
    return {
        str(row["run"]): {str(k): v for k, v in row.items() if not is_missing(v)}
        for row in rows
        if "#" not in str(row["run"])
    }


def _thinned(frame: pd.DataFrame) -> pd.DataFrame:
    """At most `POINTS` rows of each run, evenly spaced, the first and the last among them."""
    pieces = [
        rows.iloc[np.unique(np.linspace(0, len(rows) - 1, POINTS).round().astype(int))]
        for _, rows in frame.groupby("run", sort=False)
    ]
    out = pd.concat(pieces)
    out.attrs = frame.attrs
    return out


def _row(run: Run, last: Mapping[str, Any], complain: Callable[[str], Any]) -> dict[str, Any]:
    known = record(run, complain)
    about = run.provenance
    if known is None:
        return {"name": run.name, "status": "unreadable", "step": "-", "last": {}, "made": []}
    made = [f"{key}: {about[key]}" for key in ("command", "commit", "device", "started") if about.get(key)]
    packages = about.get("packages")
    if isinstance(packages, Mapping):
        made.append(", ".join(f"{name} {version}" for name, version in packages.items()))
    return {
        "name": run.name,
        "status": _status(run, known["status"]),
        "step": f"{known['step']}/{known['steps'] or '?'}",
        "last": {**known, **last},
        "made": [printable(line) for line in made],
    }


def _status(run: Run, known: str) -> str:
    """The status of a run as a reader is told it."""
    if known not in ("changed", "damaged") and run.last() is None:
        return "empty"
    return f"{known}, mean of {run.replicas} replicas" if run.replicas > 1 else known


def _columns(frame: pd.DataFrame) -> list[str]:
    """The columns that curves can be drawn of: the scores and the sharpness first, then what else was
    measured."""
    settings = set(frame.attrs["settings"])
    others = [
        str(name)
        for name in frame
        if name not in settings
        and pd.api.types.is_numeric_dtype(frame[name])
        and not str(name).endswith(("_seconds", "_products", "_gradients", "_examples", "_residual"))
        and str(name) not in ("step", "epoch", "seconds", "replica", "lr_now")
        and frame[name].nunique() > 1
    ]
    first = [name for name in FIRST_COLUMNS if name in others]
    return [*first, *(name for name in others if name not in first)][:CURVES]


def _series(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """For each run its label, colour and the values of what it can be drawn over and of the columns."""
    out = []
    for i, (look, label, rows) in enumerate(curves(frame, "step")):
        lr = rows["lr"] if "lr" in rows else float("nan")
        over = {"step": rows["step"], "lr · step": rows["step"] * lr}
        over |= {key: rows[key] for key in ("epoch", "seconds") if key in rows}
        over |= {key: rows[key] for key in columns}
        out.append(
            {
                "run": str(rows["run"].iloc[0]),
                "label": label,
                "colour": look["color"],
                "dash": DASHES[i // len(PALETTE) % len(DASHES)],
                "values": {key: _numbers(values) for key, values in over.items()},
            }
        )
    return out


def _numbers(values: Any) -> list[float | int | None]:
    out: list[float | int | None] = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            out.append(None)
        else:
            out.append(int(value) if float(value).is_integer() else float(f"{value:.{DIGITS}g}"))
    return out


def _landscapes(run: Run) -> list[dict[str, Any]]:
    """The planes that were computed of a run, whole ones."""
    out = []
    try:
        files = sorted((run.path / FOLDER).glob("*.jsonl"))
    except OSError:
        return []
    for file in files:
        answer = Answer(file, PLANE)
        about = answer.about
        rows = [answer.rows[k] for k in sorted(answer.rows)]
        if about is None or not rows:
            continue
        a, b = (sorted({row[key] for row in rows}) for key in ("a", "b"))
        if len(rows) != len(a) * len(b):
            continue
        loss = _numbers([math.nan if row["loss"] is None else row["loss"] for row in rows])
        columns = [loss[i * len(b) : (i + 1) * len(b)] for i in range(len(a))]
        out.append(
            {
                "of": f"{run.name}, step {about.get('step')}",
                "axes": [
                    str(axis).replace("$", "").replace("\\lambda", "λ") for axis in about.get("axes", [])
                ],
                "a": _numbers(a),
                "b": _numbers(b),
                "loss": [list(row) for row in zip(*columns, strict=True)],
                "trajectory": about.get("trajectory", []),
            }
        )
    return out


def _picture(frame: pd.DataFrame) -> str:
    """A static picture of the losses and the sharpness, for readers without JavaScript."""
    from sharpcli.plots.compare import compare
    from sharpcli.plots.sharpness import sharpness

    column = next((name for name in FIRST_COLUMNS if name in frame and frame[name].notna().any()), None)
    if column is None:
        return ""
    has_both = "lambda_1" in frame and frame["lambda_1"].notna().any()
    drawn = (
        sharpness(frame, x="step") if has_both else compare(frame, x="step", y=column, by=["run"], log=False)
    )
    file = io.BytesIO()
    drawn.savefig(file, format="png", dpi=90)
    return base64.b64encode(file.getvalue()).decode()


def _image(file: Path | None) -> str:
    try:
        return "" if file is None else base64.b64encode(file.read_bytes()).decode()
    except OSError:
        return ""


def _packed(text: str) -> str:
    """Text as a browser's DecompressionStream unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _key(cell: str) -> float | str:
    """What a cell is sorted by: its number where it begins with one."""
    try:
        return float(cell.partition("/")[0])
    except ValueError:
        return cell


def write(
    names: Sequence[str],
    where: str | None,
    folder: Path,
    out: Path,
    figures: Sequence[Figure],
    words: Sequence[str],
) -> Path:
    """Writes the page of the named runs, of all in the folder where none is named (and no figure is asked
    for). Refuses a folder without runs, another ending than .html, and a condition that no row meets."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise Refusal(f"-o {out}: possible endings: .html")
    messages: list[str] = []
    if names or not figures:
        runs = find_all(names, folder, messages.append) if names else in_directory(folder, messages.append)
        if not runs:
            raise Refusal(f"{folder}: no runs to report; sharp train makes one")
        shown = content(runs, where)
    else:
        shown = Content([], [], [], [])
    shown.problems[:0] = messages
    title = f"{len(shown.table)} runs" if shown.table else "Verdicts"
    with writing(out):
        if out.parent != Path():
            out.parent.mkdir(parents=True, exist_ok=True)
        # a full disk leaves the former page; a link of the user's is followed
        replace(out.resolve(), page(title, ["sharp", *words], shown, figures).encode())
    return out
