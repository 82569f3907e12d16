"""The evidence of claims and studies: runs and tables by the name of a part, made where they are missing, as
a frame."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from sharpcli.claims.checks import evaluated
from sharpcli.config.build import part
from sharpcli.config.check import check, typed
from sharpcli.config.sweep import sweep
from sharpcli.config.targets import identity, resolve
from sharpcli.config.words import compose, suggest
from sharpcli.errors import Interrupted, Refusal, signals
from sharpcli.frames import Names, frame_of, unknown
from sharpcli.jsonl import replace, writing
from sharpcli.jsonl.files import read
from sharpcli.provenance import commit
from sharpcli.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Paths = list[tuple[str, str]]  # the part's name, and the directory of a run or the file of a table


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is run for a claim or a study.

    `runs` maps a part's name to the overrides of `sharp train`, appended to `base`; a sweep contributes one
    run for each combination. `tables` maps a name to a function that computes rows without training, or, with
    `of: <part>`, from the runs of a part, in the order of the part's jobs. A run with the override
    init_from=<name> starts from the last weights of the run `before[<name>]`, with its own seed. `columns`
    are named expressions in the columns, where `<name>_first` is the first value of a run for each name in
    `first`. `shift` is added to all seeds.
    """

    id: str
    base: list[str] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)

    shift: int = 0

    @property
    def device(self) -> list[str]:
        """The device settings of every run, as overrides."""
        return ["device=cpu", "threads=1"]

    def jobs(self) -> list[tuple[str, list[str]]]:
        """(part, overrides) of every run."""
        return [
            (name, self._shifted(job))
            for name, own in self.runs.items()
            for job in sweep([*self.base, *own, *self.device])
        ]

    def tables_of_seeds(self) -> dict[str, dict[str, Any]]:
        """The tables, with the seeds that the trial has."""
        out = {}
        for name, table in self.tables.items():
            seeds = {"seeds": [seed + self.shift for seed in table["seeds"]]} if "seeds" in table else {}
            out[name] = {**table, **seeds}
            if "seed" in table:
                out[name]["seed"] = table["seed"] + self.shift
        return out

    def _shifted(self, job: list[str]) -> list[str]:
        """The overrides of a run, of another seed."""
        if not self.shift:
            return job
        seeds = [int(override.removeprefix("seed=")) for override in job if override.startswith("seed=")]
        replicas = [o.removeprefix("replicas=") for o in job if o.startswith("replicas=")]
        others = [override for override in job if not override.startswith("seed=")]
        # replicas have the seeds from the run's own on, or those that are listed
        wanted = yaml.safe_load(replicas[-1].replace(":", ": ")) if replicas else 1
        listed = wanted.get("seed", 1) if isinstance(wanted, Mapping) else wanted
        if isinstance(listed, list) and isinstance(wanted, Mapping):
            moved = {**wanted, "seed": [seed + self.shift * len(listed) for seed in listed]}
            flow = yaml.safe_dump(moved, default_flow_style=True, width=math.inf).strip().replace(" ", "")
            others = [o for o in others if not o.startswith("replicas=")] + [f"replicas={flow}"]
        lanes = 1 if isinstance(listed, list) else int(listed)
        return [*others, f"seed={(seeds[-1] if seeds else 0) + self.shift * lanes}"]


# by the type of a field, what the yaml must hold for it, and as words
KINDS_OF_VALUES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "float": ((int, float), "a number"),
    "list": (list, "a list"),
    "dict": (dict, "a mapping from names"),
}


def written(file: Path, kind: type[Trial]) -> dict[str, Any]:
    """What the yaml of a claim or a study says, by the fields of its `kind`. Refuses a file that is no
    mapping, a name that the kind does not have, a name that is missing, a value of another type, and runs
    that are no lists of overrides."""
    try:
        said = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        first_line = str(problem).split("\n", maxsplit=1)[0]
        raise Refusal(f"{file}: no YAML ({first_line})") from None
    known = {f.name: f for f in fields(kind) if f.name not in ("id", "shift")}
    if not isinstance(said, dict):
        raise Refusal(f"{file}: a mapping is needed, with {', '.join(known)}")
    if unknown := [str(key) for key in said if key not in known]:
        raise Refusal(f"{file}: {unknown[0]}: " + suggest(unknown[0], sorted(known)))
    needed = [f.name for f in known.values() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [key for key in needed if key not in said]:
        raise Refusal(f"{file}: no {', '.join(missing)}; write each of them")
    for key, value in said.items():
        wanted, text = KINDS_OF_VALUES[str(known[key].type).split("[")[0]]
        if not isinstance(value, wanted) and not (value is None and "None" in str(known[key].type)):
            raise Refusal(f"{file}: {key}: {value!r:.60}; give {text}")
    for some in [said.get("base", []), *said.get("runs", {}).values(), *said.get("before", {}).values()]:
        if not isinstance(some, list) or not all(isinstance(word, str) for word in some):
            raise Refusal(f"{file}: base, runs, before: {some!r:.60}; lists of overrides, as in [seed=1]")
    if not said.get("runs") and not said.get("tables"):
        raise Refusal(f"{file}: no runs and no tables; give what is run, as in runs: {{gd: [method=gd]}}")
    texts = [("columns", value) for value in said.get("columns", {}).values()]
    texts += [("first", value) for value in said.get("first", [])]
    if wrong := [(key, value) for key, value in texts if not isinstance(value, str)]:
        raise Refusal(f"{file}: {wrong[0][0]}: {wrong[0][1]!r:.60}; give a text")
    return said


class Made(NamedTuple):
    """A run or table that a process has made: its path, or why it was refused, and the seconds spent on
    it."""

    path: str
    refusal: str
    seconds: float


def finish(
    trials: Sequence[Trial], inside: Path, jobs: int, tell: Callable[[str], Any]
) -> Iterator[tuple[int, Paths, float]]:
    """Runs what is missing of all trials at once, `jobs` at a time, and yields (which trial, its parts'
    paths, seconds) as soon as all of a trial is there. What is complete is not run again; Ctrl-C, or another
    signal, ends the processes of the pool too and leaves every run to be resumed. What cannot be made is
    refused at the end, a line for each reason: it keeps nothing else from being made."""
    waiting: dict[Future[Made], list[tuple[int, str]]] = {}  # what several trials share is made once
    paths: list[Paths] = [[] for _ in trials]
    spent, left = [0.0] * len(trials), [0] * len(trials)
    refused: dict[str, str] = {}  # by the reason, what was refused for it first
    faults: list[Exception] = []
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=signals.begin_worker)
    try:
        with signals.raised(), single_threads():
            submitted: dict[str, Future[Made]] = {}
            for number, trial in enumerate(trials):
                work = _work(trial, inside)
                left[number] = len(work)
                for name, make, arguments in work:
                    if repr(arguments) not in submitted:
                        submitted[repr(arguments)] = pool.submit(make, *arguments)
                    waiting.setdefault(submitted[repr(arguments)], []).append((number, name))
            for future in as_completed(waiting):
                made = _result(future, faults)
                for number, name in waiting[future]:
                    if made.refusal:
                        refused.setdefault(made.refusal, f"{trials[number].id}, {name}")
                        continue  # the others are finished before it is reported
                    paths[number].append((name, made.path))
                    spent[number] += made.seconds
                    left[number] -= 1
                    tell(f"{trials[number].id}: {name} done, {left[number]} to go")
                    if not left[number]:
                        yield number, paths[number], spent[number]
            pool.shutdown()
    except GeneratorExit:  # whoever asked for the trials has stopped asking, perhaps by a signal
        signals.end_workers()
        raise
    except KeyboardInterrupt as interrupt:
        signals.end_workers()
        signum = signals.number_of(interrupt)
        raise Interrupted(f"{signals.how(signum)}; the same command carries on", signum) from None
    finally:
        pool.shutdown(
            cancel_futures=True
        )  # waits: what is left over would be joined, and interrupted, at the very end
    _report(faults, refused, tell)


@contextmanager
def single_threads() -> Iterator[None]:
    """Processes that are started within it compute with one thread each: libraries ask the environment as
    they are loaded, which is before anything can be called in the process."""
    former = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS")
        if former is not None:
            os.environ["OMP_NUM_THREADS"] = former


def _report(faults: Sequence[Exception], refused: dict[str, str], tell: Callable[[str], Any]) -> None:
    """Raises the first fault of ours; else refuses what was refused, a line for each reason."""
    if faults:
        raise faults[0]
    if refused:
        *others, last = (f"{what}: {reason}" for reason, what in refused.items())
        for line in others:
            tell(f"sharp: {line}")
        raise Refusal(last)


def _work(trial: Trial, inside: Path) -> list[tuple[str, Callable[..., Made], tuple[Any, ...]]]:
    """What has to be made for a trial: the part's name, and the function and its arguments that make it."""
    runs = [(name, _run, ([*job, f"runs_dir={inside}"], trial.before)) for name, job in trial.jobs()]
    tables = []
    for name, table in trial.tables_of_seeds().items():
        of = [make for part, _, make in runs if part == table.get("of")]
        if "of" in table and not of:
            raise Refusal(f"{trial.id}: tables: {name}: of: {table['of']}: no part of runs has this name")
        computed = {key: value for key, value in table.items() if key != "of"}
        tables.append((name, _table, (str(inside), f"{trial.id}-{name}", computed, of)))
    return [*runs, *tables]


def _result(future: Future[Made], faults: list[Exception]) -> Made:
    """What a process of the pool has made; a fault of ours in it is added to the `faults`. Refuses to go on
    where a process was ended from outside, which ends the pool."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise Refusal(
            "a process of the pool was ended from outside, as by a system that runs out of memory; the same "
            "command carries on, with -j 1 in less memory"
        ) from None
    except Exception as problem:
        faults.append(problem)
        return Made("", f"{type(problem).__name__}: {problem}", 0.0)


def rows(trial: Trial, paths: Paths) -> pd.DataFrame:
    """A row for each step of a run (or row of a table), with the trial's name of it as `part`, and the
    trial's columns; in the trial's order."""
    return with_columns(trial, measured(trial, paths))


def measured(trial: Trial, paths: Paths) -> pd.DataFrame:
    """The rows of a trial as they were measured, without the trial's columns."""
    order = [*trial.runs, *trial.tables]
    return gather(sorted(paths, key=lambda item: (order.index(item[0]), item[1])))


def with_columns(trial: Trial, frame: pd.DataFrame, instead: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Rows of a trial with the trial's columns, of which some are `instead` by other expressions, in all
    columns of the trial. Refuses expressions that cannot be computed."""
    frame = frame.copy()
    for name in trial.first:
        if name not in frame:
            raise Refusal(f"{trial.id}: first: {unknown(frame, name)}")
        frame[f"{name}_first"] = frame.groupby("run")[name].transform("first")
    for columns in (trial.columns, {**trial.columns, **instead} if instead else {}):
        for name, value in columns.items():
            frame[name] = evaluated(frame, value, f"{trial.id}: columns: {name}")
    return frame


def gather(paths: Paths) -> pd.DataFrame:
    """A row for each step of a run (or row of a table), with its part's name as `part`: as the run logged
    them, without what was measured later by other settings. Refuses a run that was changed or whose rows are
    damaged."""
    import pandas as pd

    frames, seen = [], set[str]()
    for name, path in paths:
        if path.endswith(".jsonl"):
            table = pd.DataFrame(_rows_of_table(Path(path)))
            frames.append(table.assign(run=[f"{name}-{i}" for i in range(len(table))], step=0, part=name))
        else:
            rows = frame_of([Run(Path(path))], logged_only=True).assign(part=name)
            # a run that two parts have counts in each
            frames.append(rows.assign(run=rows["run"] + f" as {name}") if path in seen else rows)
        seen.add(path)
    settings = dict.fromkeys(name for rows in frames for name in rows.attrs.get("settings", ()))
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs = {"settings": Names(settings)}
    frame["diverged"] = frame["diverged"].eq(True) if "diverged" in frame else False
    for name in [
        str(name) for name, kind in frame.dtypes.items() if kind.kind == "O"
    ]:  # JSON's None among numbers
        if frame[name].map(lambda value: value is None or isinstance(value, float | int)).all():
            frame[name] = frame[name].astype(float)
    return frame


def drawn(figure: Figure, kind: str) -> bytes:
    """The file of a figure, of a kind such as `png`."""
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    return file.getvalue()


def about(paths: Paths) -> dict[str, Any]:
    """When and on what: date, commit, machine with the processors and accelerators of the runs, the runs'
    names and the commits they were made at."""
    runs = [Run(Path(path)) for _, path in paths if not path.endswith(".jsonl")]
    devices = sorted({str(run.provenance.get("device") or "-") for run in runs})
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": ", ".join([f"{platform.machine()}, {os.cpu_count()} cores", *devices]),
        "made_at": sorted({made_at_of(path) for _, path in paths} - {""}),
        "runs": [Path(path).name for _, path in paths],
    }


def made_at_of(path: str) -> str:
    """The commit at which the run of a path was made, `-` where it names none; empty for a table."""
    return "" if path.endswith(".jsonl") else str(Run(Path(path)).provenance.get("commit") or "-")


# --- in a process of the pool ---


def _run(overrides: list[str], before: dict[str, list[str]]) -> Made:
    """Trains, resumes or skips a run, or waits for a process that does."""
    from sharpcli.engine.launch import checked_with_source, launch

    began = time.perf_counter()
    try:
        overrides = [_started(override, overrides, before) for override in overrides]
        run = launch(checked_with_source(check(compose(overrides), overrides)), overrides, wait=True)
    except (Interrupted, KeyboardInterrupt) as problem:  # the next run of the pool must not begin
        os._exit(128 + signals.number_of(problem))
    except Refusal as problem:
        return Made("", str(problem), 0.0)
    return Made(str(run.path), "", time.perf_counter() - began)


def _started(override: str, overrides: list[str], before: dict[str, list[str]]) -> str:
    """init_from=<name>, where <name> is a run that comes before, as the path of that run, which is made now
    if missing."""
    key, _, name = override.partition("=")
    if key != "init_from" or name not in before:
        return override
    from filelock import FileLock

    shared = [o for o in overrides if o.startswith(("seed=", "runs_dir=", "device=", "threads="))]
    values = {o.partition("=")[0]: o.partition("=")[2] for o in shared}
    inside, seed = Path(values["runs_dir"]), values.get("seed", "")
    with writing(inside):
        inside.mkdir(parents=True, exist_ok=True)
        with FileLock(
            inside / f".{name}-{seed}.lock"
        ):  # two runs of the same seed need the same run before them
            made = _run([*before[name], *shared], {})
    if made.refusal:
        raise Refusal(f"{name}: {made.refusal}")
    return f"init_from={made.path}"


def _table(inside: str, name: str, table: dict[str, Any], of: list[tuple[Any, ...]]) -> Made:
    """A table's rows on disk, named by the hash of its settings, its source and the runs that it is computed
    from, computed where they are missing. `of` has what `_run` takes for each of these runs: a run that
    another process trains is waited for."""
    made = [_run(*arguments) for arguments in of]
    if refused := [one.refusal for one in made if one.refusal]:
        return Made("", refused[0], 0.0)
    runs = [Run(Path(one.path)) for one in made]
    began = time.perf_counter()  # the runs' own seconds are counted as theirs
    try:
        checked = typed(table, name, [])
        source = Path(inspect.getfile(resolve(table["_target_"], name, []))).read_bytes()
        names = "".join(run.name for run in runs)
        asked = yaml.safe_dump(identity(checked)).encode() + source + names.encode()
        digest = hashlib.sha256(asked).hexdigest()[:8]
        file = Path(inside) / "tables" / f"{name}-{digest}.jsonl"
        if not _rows_of_table(file):
            function = part(checked, [], name)
            computed = function(runs) if runs else function()
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                replace(file, "".join(json.dumps(row) + "\n" for row in computed).encode(), durable=True)
    except Refusal as problem:
        return Made("", str(problem), 0.0)
    return Made(str(file), "", time.perf_counter() - began)


def _rows_of_table(file: Path) -> list[dict[str, Any]]:
    """The rows of a table; none where the file is missing or damaged, which is then made again."""
    try:
        rows = [json.loads(line) for line in read(file).splitlines()]
    except (OSError, ValueError, RecursionError):
        return []
    return rows if all(isinstance(row, dict) for row in rows) else []
