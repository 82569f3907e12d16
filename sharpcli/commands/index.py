"""What is known of every run in a folder, kept in a file beside the runs, so that thousands are listed fast.

An entry is believed while the run's files have the sizes and times of change that they had when it was made;
a run that is not over is always read again. To delete the file loses nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from sharpcli import __version__
from sharpcli.commands.processes import in_processes
from sharpcli.errors import Refusal
from sharpcli.frames import settings_of
from sharpcli.jsonl import replace
from sharpcli.jsonl.files import read
from sharpcli.run import FILES, LABELS, Run, differing, last_of
from sharpcli.runs_dir import run_at

FILE = ".index.json"
VERSION = f"{__version__}, 2"  # of the entries: the number is raised where they say something else of a run
MOST = 2**30  # bytes of an index that is read
AT_ONCE = 500  # runs that a process reads at a time
SETTLED = 2.0  # seconds after which a file's time of change tells two changes apart
OVER = ("complete", "diverged")
Stamp = list[list[int] | None]


def records(folder: Path, complain: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The record of each run in a folder, by name; see `record`. `complain` is told of those that cannot be
    read."""
    known = _read(folder / FILE)
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as problem:
        complain(f"{folder}: cannot be read ({problem.strerror or problem})")
        return []
    stamps = {name: stamp for name in names if any(stamp := _stamp(f"{folder}/{name}"))}
    unknown = [name for name, stamp in stamps.items() if name not in known or known[name][0] != stamp]
    pieces = [
        [folder / name for name in unknown[at : at + AT_ONCE]] for at in range(0, len(unknown), AT_ONCE)
    ]
    read_anew = dict(zip(unknown, chain.from_iterable(in_processes(_read_runs, pieces)), strict=True))
    entries: dict[str, tuple[Stamp, dict[str, Any]]] = {}
    out, changed = [], False
    for name, stamp in stamps.items():
        if name in known and known[name][0] == stamp:
            entries[name] = known[name]
            out.append(known[name][1])
            continue
        row, said = read_anew[name]
        for message in said:
            complain(message)
        if row is None:
            continue
        out.append(row)
        newest = max(part[0] for part in stamp if part is not None)
        if not said and row["status"] in OVER and time.time_ns() - newest > SETTLED * 1e9:
            entries[name] = (stamp, row)
            changed = True
    if changed or len(entries) != len(known):
        _write(folder / FILE, entries)
    return out


def _read_runs(paths: Sequence[Path]) -> list[tuple[dict[str, Any] | None, list[str]]]:
    """The record of each run, None where it cannot be read, and what there is to complain of."""
    out = []
    for path in paths:
        said: list[str] = []
        run = run_at(path, said.append)
        out.append((None if run is None else record(run, said.append), said))
    return out


def record(run: Run, complain: Callable[[str], Any]) -> dict[str, Any] | None:
    """What is known of a run: its name, its status, `step` of `steps`, its last row, its settings by their
    dotted names, and in `settings` the names of these. Complains of a run that was changed or is damaged,
    whose status is then that, and of one that cannot be read, which is None."""
    try:
        last = run.last()
        status = run.status_after(last)
        if run.replicas > 1:
            last = last_of(run.rows(complain))
        if wrong := run.altered(quick=True):
            complain(f"{run.path}: changed after the run was made: {wrong}")
            status = "changed"
        elif wrong := run.damage():
            complain(f"{wrong}; the command that made the run mends it")
            status = "damaged"
        settings: dict[str, Any] = {}
        if status != "changed":
            try:
                settings = settings_of(run)
                for setting in differing(run.config):  # the run's own value is that of no replica
                    settings.pop(setting, None)
            except Refusal as problem:
                complain(f"{problem}; its settings are not shown")
        steps = None if run.is_open else run.steps
    except Refusal as problem:
        complain(f"{problem}; left out")
        return None
    return {
        **settings,
        **(last or {"step": 0}),
        "run": run.name,
        "status": status,
        "steps": steps,
        "settings": list(settings),
    }


def _stamp(path: str) -> Stamp:
    """The time of change and the size of each file of a run; None for one that is missing."""
    stamp: Stamp = []
    for name in (*FILES, LABELS):
        try:
            stat = os.stat(f"{path}/{name}")  # noqa: PTH116  # 50,000 paths take as long as all else
            stamp.append([stat.st_mtime_ns, stat.st_size])
        except OSError:
            stamp.append(None)
    return stamp


def _read(file: Path) -> dict[str, tuple[Stamp, dict[str, Any]]]:
    """The entries; none where the file is missing, damaged or another version's."""
    try:
        stored = json.loads(read(file, MOST))
        if stored["version"] != VERSION:
            return {}
        common = stored["common"]
        return {name: (stamp, {**common, **own}) for name, (stamp, own) in stored["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write(file: Path, entries: dict[str, tuple[Stamp, dict[str, Any]]]) -> None:
    """Keeps the entries, what all of them share once. A folder that cannot be written has no index."""
    rows = [row for _, row in entries.values()]
    common = dict(rows[0]) if rows else {}
    for row in rows:
        for key in [key for key, value in common.items() if key not in row or row[key] != value]:
            del common[key]
    own = {
        name: (stamp, {key: value for key, value in row.items() if key not in common})
        for name, (stamp, row) in entries.items()
    }
    text = json.dumps({"version": VERSION, "common": common, "runs": own}, default=str)
    with suppress(OSError, Refusal):
        replace(file, text.encode())
