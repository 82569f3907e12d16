"""Studies: open questions with the runs that look into them, a table of the results and a figure; without a
verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sharpcli.claims.checks import Reduce, by_run
from sharpcli.claims.evidence import Trial, about, drawn, finish, rows, written
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.folders import options, yaml_files
from sharpcli.config.words import suggest
from sharpcli.errors import Refusal
from sharpcli.frames import unknown
from sharpcli.jsonl import replace, writing
from sharpcli.jsonl.files import no_link

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Study(Trial):
    """conf/study/<id>.yaml: a question; `show` are expressions in the columns by their title, with how a
    run's steps are reduced, and the table has a row for each combination of the settings `by`, the mean over
    its runs."""

    question: str
    source: str
    convention: str
    seconds: float
    by: list[str]
    show: dict[str, dict[str, str]]
    plot: dict[str, Any]


def read(name: str) -> Study:
    """The study of this name. Refuses an unknown name, and what `written` does."""
    if name not in options("study"):
        raise Refusal(f"{name}: no such study; " + suggest(name, options("study")))
    study = Study(id=name, **written(yaml_files("study")[name], Study))
    if not study.by or not all(isinstance(key, str) for key in study.by):
        raise Refusal(f"study {name}: by: {study.by}; give the settings that make a row, as in [lr]")
    possible = get_args(Reduce)
    for title, shown in study.show.items():
        is_said = isinstance(shown, dict) and isinstance(shown.get("value"), str)
        if not is_said or {*shown} - {"value", "reduce"} or shown.get("reduce", "last") not in possible:
            raise Refusal(
                f"study {name}: show: {title}: {shown!r:.60}; give a value, an expression in the columns, "
                f"and reduce, one of {', '.join(possible)}"
            )
    return study


def run(study: Study, runs_dir: Path, jobs: int, tell: Callable[[str], Any]) -> list[str]:
    """Runs what is missing and returns the table, as lines of markdown; it is written with its figure into
    studies/<id>/."""
    inside = runs_dir / "studies"
    lines: list[str] = []
    for _, paths, seconds in finish([study], inside, jobs, tell):
        frame = rows(study, paths)
        origin = about(paths)
        lines = [
            *table(study, frame),
            "",
            f"{origin['date']}, commit {str(origin['commit'])[:7]}, {origin['machine']}.",
        ]
        folder = inside / study.id
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            replace(no_link(folder) / "table.md", ("\n".join(lines) + "\n").encode(), durable=True)
            text = json.dumps({**origin, "seconds": round(seconds, 1)}, indent=1) + "\n"
            replace(folder / "about.json", text.encode(), durable=True)
            figure = part(typed(study.plot, f"study {study.id}: plot", []), [], "plot")(frame)
            replace(folder / "figure.png", drawn(figure, "png"))
    return lines


def picture(name: str, runs_dir: Path) -> dict[str, Any]:
    """A study for a page: its `title`, its question and table as lines of `text`, and the file of its figure,
    the `image`. Refuses an unknown name, and a study that was not run."""
    study = read(name)
    folder = runs_dir / "studies" / study.id
    try:
        lines = (folder / "table.md").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise Refusal(f"--study {name}: not run in {runs_dir} yet; sharp study {name} runs it") from None
    return {"title": study.id, "text": [study.question.strip(), *lines], "image": folder / "figure.png"}


def table(study: Study, frame: pd.DataFrame) -> list[str]:
    """A row for each combination of `by`, in the study's order: mean, and ± one standard deviation over runs;
    `-` where no run has a number."""
    import pandas as pd

    if missing := [key for key in study.by if key not in frame]:
        raise Refusal(f"study {study.id}: by: {unknown(frame, str(missing[0]))}")
    settings = frame.groupby("run", sort=False)[study.by].first()
    columns = {
        title: by_run(frame, shown["value"], "", _reduce(shown)) for title, shown in study.show.items()
    }
    both = pd.concat([settings, pd.DataFrame(columns)], axis=1)
    out = [
        f"| {' | '.join([*study.by, *study.show, 'runs'])} |",
        "|" + "---|" * (len(study.by) + len(study.show) + 1),
    ]
    for key, group in both.groupby(study.by, sort=False, dropna=False):
        cells = [_cell(value) for value in key]
        for title in study.show:
            values = group[title].dropna()
            spread = f" ± {values.std():.1g}" if len(values) > 1 and values.std() > 0 else ""
            cells.append(f"{values.mean():.4g}{spread}" if len(values) else "-")
        out.append(f"| {' | '.join([*cells, str(len(group))])} |")
    return out


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:g}"


def _reduce(shown: dict[str, str]) -> Reduce:
    reduce: Any = shown.get("reduce", "last")
    return reduce


def listing() -> Sequence[tuple[str, ...]]:
    """The studies and their questions."""
    studies = [read(name) for name in options("study")]
    return [("study", "seconds", "question"), *((s.id, f"{s.seconds:g}", s.question) for s in studies)]
