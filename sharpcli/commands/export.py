"""`sharp export`: the rows of runs handed to a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sharpcli.commands.report import complain
from sharpcli.errors import Refusal
from sharpcli.run import find_all
from sharpcli.trackers import NAMES, tracker


def export(names: Sequence[str], kind: str, folder: Path | None, runs_dir: Path) -> list[str]:
    """Hands every row of the runs, logged and measured later, to a new run of the tracker; a line for each.
    Refuses replicas, which are many runs in one."""
    if kind not in NAMES:
        raise Refusal(f"--to {kind}: possible: {', '.join(NAMES)}")
    runs = find_all(names, runs_dir)
    for run in runs:
        run.refuse_altered(quick=True)
        if run.replicas > 1:
            raise Refusal(
                f"{run.name}: holds {run.replicas} replicas, which a tracker would mix; leave it out"
            )
    said = []
    for run in runs:
        rows = run.rows(complain)
        into = tracker(kind, run.name, run.config, folder)
        for row in rows:
            into.row(row)
        into.close()
        said.append(f"{run.path}: {len(rows)} rows to {kind}{f' in {folder}' if folder else ''}")
    return said
