"""What claims and studies look at: runs and tables by the name of a part, made where they are missing, as a frame of rows."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli.config import check as checked_config
from sharpcli.config import compose, part, typed
from sharpcli.errors import Refusal
from sharpcli.launch import checked_with_source, directory, sweep
from sharpcli.run import Run, writing

if TYPE_CHECKING:
    import pandas as pd

Paths = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """`runs` are words of `sharp train` by the name of a part, after those of `base`, each sweep being all its runs, and
    `tables` rows that a function computes. A run whose words say init_from=<name> starts from the last weights of the run
    `before[<name>]`, with its own seed. `columns` are named expressions in the columns, `<name>_first` being the first of a
    run's for each name in `first`."""

    id: str
    base: list[str] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)

    @property
    def where(self) -> list[str]:
        """Words of the device of every run."""
        return ["device=cpu", "threads=1"]

    def jobs(self) -> list[tuple[str, list[str]]]:
        """(part, words) of every run."""
        return [(name, job) for name, words in self.runs.items() for job in sweep([*self.base, *words, *self.where], None)]


def finish(trials: Sequence[Trial], inside: Path, jobs: int, tell: Callable[[str], Any]) -> Iterator[tuple[int, Paths, float]]:
    """Runs what is missing of all trials at once, `jobs` at a time, and yields (which trial, its parts' paths, seconds) as soon
    as all of a trial is there. What is complete is not run again; Ctrl-C leaves every run to be resumed."""
    waiting: dict[Future[tuple[str, float]], list[tuple[int, str]]] = {}  # for what several trials share, it is made once
    names: list[Paths] = [[] for _ in trials]
    spent, left = [0.0] * len(trials), [0] * len(trials)
    refused: list[str] = []
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_alone)
    try:
        begun: dict[str, Future[tuple[str, float]]] = {}
        for number, trial in enumerate(trials):
            work: list[tuple[str, Any, Any]] = [
                *((name, _run, ([*words, f"runs_dir={inside}"], trial.before)) for name, words in trial.jobs()),
                *((name, _table, (str(inside), f"{trial.id}-{name}", table)) for name, table in trial.tables.items()),
            ]
            left[number] = len(work)
            for name, make, given in work:
                if repr(given) not in begun:
                    begun[repr(given)] = pool.submit(make, *given)
                waiting.setdefault(begun[repr(given)], []).append((number, name))
        for future in as_completed(waiting):
            path, seconds = future.result()
            for number, name in waiting[future]:
                if path.startswith("refused: "):
                    refused.append(f"{trials[number].id}, {name}: {path.removeprefix('refused: ')}")
                    continue  # the others are finished before this is said
                names[number].append((name, path))
                spent[number] += seconds
                left[number] -= 1
                tell(f"{trials[number].id}: {name} done, {left[number]} to go")
                if not left[number]:
                    yield number, names[number], spent[number]
        if refused:
            raise Refusal(refused[0])
        pool.shutdown()
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        raise Refusal("interrupted; the same command carries on") from None
    finally:
        pool.shutdown(cancel_futures=True)  # waits: what is left over would be joined, and interrupted, at the very end


def rows(trial: Trial, paths: Paths) -> pd.DataFrame:
    """One row a run (or table row) and step, with the trial's name of it as `part`, and its columns; in the trial's order."""
    order = [*trial.runs, *trial.tables]
    frame = gather(sorted(paths, key=lambda one: (order.index(one[0]), one[1])))
    for name in trial.first:
        frame[f"{name}_first"] = frame.groupby("run")[name].transform("first")
    for name, value in trial.columns.items():
        frame[name] = frame.eval(value, engine="python")
    return frame


def gather(paths: Paths) -> pd.DataFrame:
    """One row a run (or table row) and step, with the claim's name of it as `part`."""
    import pandas as pd

    from sharpcli.draw import frame_of

    frames = []
    for name, path in paths:
        if path.endswith(".jsonl"):
            rows = pd.DataFrame([json.loads(line) for line in Path(path).read_text().splitlines()])
            frames.append(rows.assign(run=[f"{name}-{i}" for i in range(len(rows))], step=0, part=name))
        else:
            frames.append(frame_of([Run(Path(path))]).assign(part=name))
    frame = pd.concat(frames, ignore_index=True)
    frame["diverged"] = frame["diverged"].eq(True) if "diverged" in frame else False
    for name in [str(name) for name, kind in frame.dtypes.items() if kind.kind == "O"]:  # None, as JSON has it, among numbers
        if frame[name].map(lambda value: value is None or isinstance(value, float | int)).all():
            frame[name] = frame[name].astype(float)
    return frame


def about(paths: Paths) -> dict[str, Any]:
    """When and on what: date, commit, machine with the processors and accelerators of the runs, the runs' names and the commits
    they were made at."""
    import platform

    from sharpcli.checkout import commit

    runs = [Run(Path(path)) for _, path in paths if not path.endswith(".jsonl")]
    devices, made_at = (sorted({run.provenance[key] or "-" for run in runs}) for key in ("device", "commit"))
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": ", ".join([f"{platform.machine()}, {os.cpu_count()} cores", *devices]),
        "made_at": made_at,
        "runs": [Path(path).name for _, path in paths],
    }


# --- in a process of the pool ----------------------------------------------------------------------------------------


def _alone() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(words: list[str], before: dict[str, list[str]] | None = None) -> tuple[str, float]:
    import contextlib
    import io

    from sharpcli.launch import launch

    started = time.perf_counter()
    try:
        words = [_begun(word, words, before or {}) for word in words]
        checked = checked_with_source(checked_config(compose(words), words))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            launch(checked, words)
    except Refusal as problem:
        return f"refused: {problem}", 0.0
    return str(directory(checked)), time.perf_counter() - started


def _begun(word: str, words: list[str], before: dict[str, list[str]]) -> str:
    """init_from=<name> with the name of a run that comes first as the path of that run, which is made now if it is missing."""
    key, _, name = word.partition("=")
    if key != "init_from" or name not in before:
        return word
    from filelock import FileLock

    shared = [w for w in words if w.startswith(("seed=", "runs_dir=", "device=", "threads="))]
    inside = Path(next(w for w in shared if w.startswith("runs_dir=")).partition("=")[2])
    seed = next((w.partition("=")[2] for w in shared if w.startswith("seed=")), "")
    with writing(inside):
        inside.mkdir(parents=True, exist_ok=True)
        with FileLock(inside / f".{name}-{seed}.lock"):  # two runs of one seed need the same one
            path, _ = _run([*before[name], *shared])
    if path.startswith("refused: "):
        raise Refusal(f"{name}: {path.removeprefix('refused: ')}")
    return f"init_from={path}"


def _table(inside: str, name: str, table: dict[str, Any]) -> tuple[str, float]:
    """A table's rows on disk, named by the hash of its settings, computed where they are not there yet."""
    import hashlib

    started = time.perf_counter()
    try:
        checked = typed(table, name, [])
        digest = hashlib.sha256(yaml.safe_dump(checked).encode()).hexdigest()[:8]
        file = Path(inside) / "tables" / f"{name}-{digest}.jsonl"
        if not file.exists():
            rows = part(checked, [], name)()
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                half = file.with_suffix(".part")
                half.write_text("".join(json.dumps(row) + "\n" for row in rows))
                half.replace(file)
    except Refusal as problem:
        return f"refused: {problem}", 0.0
    return str(file), time.perf_counter() - started
