"""Studies: open questions with the runs that look into them, a table of what was found and a figure; without a verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli import CONF
from sharpcli.checks import Reduce, by_run
from sharpcli.config import options, part, suggest, typed
from sharpcli.errors import Refusal
from sharpcli.run import writing
from sharpcli.trials import Trial, about, finish, rows

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Study(Trial):
    """conf/study/<id>.yaml: a question; `show` are expressions in the columns by their title, with how a run's steps are
    reduced, and the table has a row for each combination of the settings `by`, the mean over its runs."""

    question: str
    source: str
    convention: str
    seconds: float
    by: list[str]
    show: dict[str, dict[str, str]]
    plot: dict[str, Any]


def read(word: str) -> Study:
    """The study that a word names."""
    if word not in options("study"):
        raise Refusal(f"{word}: no such study; " + suggest(word, options("study")))
    return Study(id=word, **yaml.safe_load((CONF / "study" / f"{word}.yaml").read_text()))


def run(study: Study, runs_dir: Path, jobs: int, tell: Callable[[str], Any]) -> list[str]:
    """Runs what is missing and returns the table, as lines of markdown; it is written with its figure into
    studies/<id>/."""
    inside = runs_dir / "studies"
    lines: list[str] = []
    for _, paths, seconds in finish([study], inside, jobs, tell):
        frame = rows(study, paths)
        found = about(paths)
        lines = [*table(study, frame), "", f"{found['date']}, commit {str(found['commit'])[:7]}, {found['machine']}."]
        folder = inside / study.id
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "table.md").write_text("\n".join(lines) + "\n")
            (folder / "about.json").write_text(json.dumps({**found, "seconds": round(seconds, 1)}, indent=1) + "\n")
            figure = part(typed(study.plot, f"study {study.id}: plot", []), [], "plot")(frame)
            figure.savefig(folder / "figure.png")
    return lines


def table(study: Study, frame: pd.DataFrame) -> list[str]:
    """A row for each combination of `by`, in the study's order: mean, and ± one standard deviation over runs;
    `-` where no run has a number."""
    import pandas as pd

    settings = frame.groupby("run", sort=False)[study.by].first()
    columns = {title: by_run(frame, one["value"], "", _reduce(one)) for title, one in study.show.items()}
    both = pd.concat([settings, pd.DataFrame(columns)], axis=1)
    out = [f"| {' | '.join([*study.by, *study.show, 'runs'])} |", "|" + "---|" * (len(study.by) + len(study.show) + 1)]
    for key, group in both.groupby(study.by, sort=False, dropna=False):
        cells = [("-" if math.isnan(value) else f"{value:g}") if isinstance(value, float) else str(value) for value in key]
        for title in study.show:
            values = group[title].dropna()
            spread = f" ± {values.std():.1g}" if len(values) > 1 and values.std() > 0 else ""
            cells.append(f"{values.mean():.4g}{spread}" if len(values) else "-")
        out.append(f"| {' | '.join([*cells, str(len(group))])} |")
    return out


def _reduce(one: dict[str, str]) -> Reduce:
    reduce: Any = one.get("reduce", "last")
    return reduce


def listing() -> Sequence[tuple[str, ...]]:
    """The studies and their questions."""
    studies = [read(word) for word in options("study")]
    return [("study", "seconds", "question"), *((s.id, f"{s.seconds:g}", s.question) for s in studies)]
