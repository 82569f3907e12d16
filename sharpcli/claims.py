"""Claims: published statements with the runs that test them, the checks they must pass and the controls that must fail."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli import CONF
from sharpcli.config import check as checked_config
from sharpcli.config import compose, options, part, suggest, typed
from sharpcli.errors import Refusal
from sharpcli.launch import checked_with_source, directory, sweep
from sharpcli.run import Run, writing

if TYPE_CHECKING:
    import pandas as pd

TIERS = ("quick", "cpu", "gpu")
HOLDS, FAILS, NOT_HERE, SUDDENLY = "holds", "fails", "does not hold here", "holds, and was not expected to"


@dataclass(frozen=True)
class Claim:
    """conf/claim/<id>.yaml. `runs` are words of `sharp train` by the name of a part, after those of `base`, each sweep being
    all its runs, and `tables` rows that a function computes; `check` must hold and each `control` must not.
    `columns` are named expressions in the columns, `<name>_first` being the first of a run's for each name in `first`."""

    id: str
    statement: str
    source: str
    convention: str
    tier: str
    seconds: float
    check: list[dict[str, Any]]
    control: list[dict[str, Any]]
    base: list[str] = field(default_factory=list)
    runs: dict[str, list[str]] = field(default_factory=dict)
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    first: list[str] = field(default_factory=list)
    published: str = "-"
    prediction: str = ""
    expect: str = "holds"
    plot: dict[str, Any] | None = None

    def jobs(self) -> list[tuple[str, list[str]]]:
        """(part, words) of every run."""
        always = ["device=cpu", "threads=1"]
        return [(name, job) for name, words in self.runs.items() for job in sweep([*self.base, *words, *always], None)]


@dataclass(frozen=True)
class Verdict:
    """What was found: for each check and control what was asked and measured; the word, and whether it is the expected one."""

    id: str
    verdict: str
    checks: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    seconds: float
    about: dict[str, Any]

    @property
    def expected(self) -> bool:
        """Whether nothing has to be looked into."""
        return self.verdict in (HOLDS, NOT_HERE)


def read(word: str) -> Claim:
    """The claim that a word names."""
    if word not in options("claim"):
        raise Refusal(f"{word}: no such claim; " + suggest(word, options("claim")))
    return Claim(word, **yaml.safe_load((CONF / "claim" / f"{word}.yaml").read_text()))


def chosen(words: Sequence[str], tier: str) -> list[Claim]:
    """The claims that words name, or all of a tier."""
    if tier and tier not in TIERS:
        raise Refusal(f"--tier {tier}: " + suggest(tier, TIERS))
    if not words and not tier:
        raise Refusal("no claim given; sharp claim check ID... or --tier quick; sharp claim list shows them")
    return [read(word) for word in words] or [claim for claim in map(read, options("claim")) if claim.tier == tier]


def check(claims: Sequence[Claim], runs_dir: Path, jobs: int, tell: Callable[[str], Any]) -> Iterator[tuple[Claim, Verdict]]:
    """Runs what is missing of all claims at once, `jobs` at a time, and yields each claim's verdict as soon as its runs are
    there. What is complete is not run again; Ctrl-C leaves every run to be resumed."""
    inside = runs_dir / "claims"
    missing: dict[Future[tuple[str, float]], tuple[int, str]] = {}
    names: list[list[tuple[str, str]]] = [[] for _ in claims]
    spent, left = [0.0] * len(claims), [0] * len(claims)
    refused: list[str] = []
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_alone)
    try:
        for number, claim in enumerate(claims):
            for name, words in claim.jobs():
                missing[pool.submit(_run, [*words, f"runs_dir={inside}"])] = (number, name)
                left[number] += 1
            for name, table in claim.tables.items():
                missing[pool.submit(_table, str(inside), f"{claim.id}-{name}", table)] = (number, name)
                left[number] += 1
        for future in as_completed(missing):
            number, name = missing[future]
            path, seconds = future.result()
            if path.startswith("refused: "):
                refused.append(f"claim {claims[number].id}, {name}: {path.removeprefix('refused: ')}")
                continue  # the other claims are judged before this is said
            names[number].append((name, path))
            spent[number] += seconds
            left[number] -= 1
            tell(f"{claims[number].id}: {name} done, {left[number]} to go")
            if not left[number]:
                yield claims[number], judge(claims[number], names[number], inside, spent[number])
        if refused:
            raise Refusal(refused[0])
        pool.shutdown()
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        raise Refusal("interrupted; the same command carries on") from None
    finally:
        pool.shutdown(cancel_futures=True)  # waits: what is left over would be joined, and interrupted, at the very end


def judge(claim: Claim, paths: Sequence[tuple[str, str]], inside: Path, seconds: float) -> Verdict:
    """The verdict from the rows of a claim's runs and tables; written with its figure into claims/<id>/."""
    frame = gather(paths)
    for name in claim.first:
        frame[f"{name}_first"] = frame.groupby("run")[name].transform("first")
    for name, value in claim.columns.items():
        frame[name] = frame.eval(value, engine="python")
    checks = [_found(words, frame, claim) for words in claim.check]
    controls = [_found(words, frame, claim) for words in claim.control]
    held, controlled = all(one["holds"] for one in checks), not any(one["holds"] for one in controls)
    verdict = FAILS
    if claim.expect == "holds" and held and controlled:
        verdict = HOLDS
    elif claim.expect == "does_not_hold":
        verdict = SUDDENLY if held else NOT_HERE if controlled else FAILS
    verdict_ = Verdict(claim.id, verdict, checks, controls, round(seconds, 1), about(paths))
    folder = inside / claim.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = {"statement": claim.statement, "source": claim.source, "published": claim.published, **asdict(verdict_)}
        (folder / "verdict.json").write_text(json.dumps(text, indent=1) + "\n")
    if claim.plot is not None:
        figure = part(typed(claim.plot, f"claim {claim.id}: plot", []), [], "plot")(frame)
        with writing(folder):
            figure.savefig(folder / "figure.png")
    return verdict_


def gather(paths: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """One row a run (or table row) and step, with the claim's name of it as `part`."""
    import pandas as pd

    from sharpcli.draw import frame_of

    frames = []
    for name, path in sorted(paths):
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


def about(paths: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """When and on what: date, commit, machine, and the names of the runs."""
    from sharpcli.checkout import commit

    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": [Path(path).name for _, path in paths],
    }


def last(word: str, runs_dir: Path) -> dict[str, Any] | None:
    """The verdict on disk, if any."""
    file = runs_dir / "claims" / word / "verdict.json"
    return json.loads(file.read_text()) if file.exists() else None


def _found(words: dict[str, Any], frame: pd.DataFrame, claim: Claim) -> dict[str, Any]:
    defaults = {"reduce": "last", "statistic": "each", "predicted": None, "of": ""}
    target = f"sharpcli.checks.{words['kind']}"
    given = {key: value for key, value in words.items() if key != "kind"}
    wanted = checks_take(target)
    values = {key: value for key, value in defaults.items() if key in wanted} | given
    finding = part(typed({"_target_": target, **values}, f"claim {claim.id}: check", []), [], "check")(frame)
    return {**asdict(finding), "words": finding.words}


def checks_take(target: str) -> list[str]:
    """What a check's yaml may say."""
    from sharpcli.config import hyperparameters, resolve

    return hyperparameters(resolve(target, "check", []))[1]


# --- in a process of the pool ----------------------------------------------------------------------------------------


def _alone() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"


def _run(words: list[str]) -> tuple[str, float]:
    import contextlib
    import io

    from sharpcli.launch import launch

    started = time.perf_counter()
    try:
        checked = checked_with_source(checked_config(compose(words), words))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            launch(checked, words)
    except Refusal as problem:
        return f"refused: {problem}", 0.0
    return str(directory(checked)), time.perf_counter() - started


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
