"""Damaged files of a run through every command: exit code 0, or 2 with one line; never a traceback, a hang,
or another number without a word; and the run beside it is served as if nothing were."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path

import matplotlib
import pytest
import yaml
from conftest import Said, rows_of

from sharpcli.errors import Refusal
from sharpcli.run import Run
from torture import SHARDS, Hung, at_most_gigabytes, cases, draws, each, limit
from torture.damage import damage

FILES = 2000
VERDICTS = 100
PLOTS_ONCE_IN = 41  # cases: a plot of all runs takes as long as the other commands of a case together
SECONDS = 20.0  # for a command that takes less than one
GIGABYTES = 4.0
RUNS = (  # the runs that are damaged; each has few rows and checkpoints
    "problem=uv problem.d=6 problem.n=4 steps=6 measure_every=2 checkpoint_every=3",
    "problem=network data.train_examples=30 model.widths=[3] steps=4 measure_every=2 "
    "checkpoint_every=2 measure=[scores,sharpness,trace] measure.trace.max_products=16",
    "problem=quadratic method=sgd batch_size=1 replicas=3 steps=6 measure_every=2 measure=[scores]",
)
BESIDE = "problem=quartic steps=4 measure_every=2"  # the run beside them
PROGRESS = re.compile(r"^(step \d+/|resuming |\[job|measuring|.*: already|$)")


def plain(text: str) -> str:
    """A figure's or a table's text without what differs between two equal runs."""
    return re.sub(r"<!--.*?-->", "", text, flags=re.S)


def complained(said: Said) -> bool:
    """Whether a command said that something was wrong."""
    return said.code == 2 or any(not PROGRESS.match(line) for line in said.err.splitlines())


def faulty(said: Said) -> str | None:
    """What is wrong with the way a command ended, or None."""
    text = said.out + said.err
    if "Traceback" in text:
        return "a traceback: " + said.err[-1500:]
    if said.code not in (0, 2):
        return f"exit code {said.code}: {said.err[-500:]}"
    if said.code == 2:
        last = [line for line in said.err.splitlines() if line and not PROGRESS.match(line)]
        if not last or not last[-1].startswith("sharp: "):
            return f"exit code 2 without its line: {said.err[-500:]}"
    if raw := re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b\u202a-\u202e]", text.replace("\r", "")):
        return f"{raw[0]!r} printed raw: {text[max(0, raw.start() - 80) : raw.end() + 20]!r}"
    return None


def without_times(value):
    """A measured point without its seconds."""
    return {key: v for key, v in value.items() if not key.endswith("seconds") and key != "of"}


class Served:
    """What every command says of a run; by `sharp` in a folder that holds `runs/`."""

    def __init__(self, sharp, run: str, words: list[str]) -> None:
        self.sharp, self.run, self.words = sharp, run, words
        self.said: dict[str, Said] = {}
        self.faults: list[str] = []

    def command(self, name: str, *words: str) -> Said:
        """Runs a command within its time, and keeps what it said and what was wrong with it."""
        shown = "sharp " + " ".join(words)
        try:
            with limit(SECONDS), at_most_gigabytes(GIGABYTES):
                said = self.sharp(*words)
        except Hung as problem:
            self.faults.append(f"{shown}: {problem}")
            said = Said(2, "", "sharp: hung")
        except (Exception, SystemExit) as problem:
            frames, at = [], problem.__traceback__
            while at:
                frames.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
                at = at.tb_next
            about = f"{type(problem).__name__}: {str(problem)[:300]} at {' '.join(frames[-6:])}"
            self.faults.append(f"{shown}: {about}")
            said = Said(2, "", f"sharp: {type(problem).__name__}")
        else:
            if fault := faulty(said):
                self.faults.append(f"{shown}: {fault}")
        self.said[name] = said
        return said

    def all(self, plots: bool = True) -> None:
        """Every command that reads runs; a plot of all runs, which takes long, where asked."""
        self.command("table", "ls")
        self.command("ls", "ls", "--json")
        self.command("show", "show", f"runs/{self.run}")
        self.command("plot", "plot", "loss", f"runs/{self.run}", "-o", "one.svg")
        if plots:
            self.command("plots", "plot", "loss", "runs", "-o", "all.svg")
        self.command("measure", "measure", f"runs/{self.run}", "--json")
        self.command("train", "train", *self.words)

    # --- the numbers that commands gave ---

    def line(self, run: str) -> str | None:
        """What `sharp ls` says of a run."""
        rows = [json.loads(line) for line in self.said["ls"].out.splitlines()]
        return next((json.dumps(without_times(row)) for row in rows if row["run"] == run), None)

    def points(self) -> list[dict]:
        """What `sharp measure` printed."""
        lines = [line for line in self.said["measure"].out.splitlines() if line.startswith("{")]
        return [without_times(json.loads(line)) for line in lines]

    def shown(self) -> tuple:
        """The numbers of `sharp show`: status, settings and last row."""
        about = yaml.safe_load(self.said["show"].out) or {}
        last = about.get("last row") or {}
        config = dict(about.get("config") or {})
        config.pop("method", None)  # a label, which decides no number
        return about.get("status"), config, without_times(last)


def names_in(runs: Path) -> set[str]:
    """The names of the runs in a folder, without the index of `sharp ls`."""
    return {name for name in os.listdir(runs) if not name.startswith(".")}


@pytest.fixture
def base(sharp, folder, monkeypatch, tmp_path_factory):
    """A folder with all runs, and what every command says of each; made once in a process."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    monkeypatch.setitem(matplotlib.rcParams, "svg.hashsalt", "torture")
    if not MADE:
        served = made(sharp, folder, monkeypatch)
        kept = tmp_path_factory.mktemp("made") / "runs"
        shutil.copytree(folder / "runs", kept)
        MADE.append((kept, served))
    else:
        shutil.copytree(MADE[0][0], folder / "runs")
    for of_run in MADE[0][1].values():
        of_run.sharp = sharp
    return folder, MADE[0][1]


MADE: list[tuple[Path, dict[str, Served]]] = []


def made(sharp, folder, monkeypatch):
    """Trains the runs, in runs/ of the folder; gives what every command says of each."""
    (folder / "whole").mkdir()
    monkeypatch.chdir(folder / "whole")
    assert sharp("train", *BESIDE.split()).code == 0
    names = {}
    for words in RUNS:
        before = names_in(Path("runs"))
        assert sharp("train", *words.split()).code == 0
        (names[words],) = names_in(Path("runs")) - before
    served = {}
    for words, name in names.items():
        if "replicas" not in words:
            assert sharp("measure", name, "measure=[gradient_norm,norms]").code == 0
    shutil.copytree("runs", "../runs")
    for words, name in names.items():
        shutil.rmtree("runs")
        shutil.copytree("../runs", "runs")
        served[name] = Served(sharp, name, words.split())
        served[name].all()
        assert not served[name].faults, served[name].faults
        served[name].figure = plain(Path("one.svg").read_text())
    monkeypatch.chdir(folder)
    shutil.rmtree("whole")
    return served


def rows_and_weights(run: Path, train: Said):
    """What a run kept: rows, and the last weights where the command did not say that nothing was to do."""
    found = Run(run)
    if "nothing to do" in train.out:
        return rows_of(run / "metrics.jsonl"), []
    saved = found.load(found.checkpoints()[-1])
    parts = saved.get("replicas", [saved])
    return rows_of(run / "metrics.jsonl"), [part["w"].tolist() for part in parts]


def silent(got: Served, want: Served, beside: str, folder: Path, work: Path) -> list[str]:
    """Where a command gave other numbers than of the undamaged run without a word about it."""
    out = []
    ls = got.said["ls"]
    if got.line(beside) != want.line(beside):
        out.append(f"ls: the run beside it is {got.line(beside)!r}: {ls.err[-300:]}")
    line = got.line(got.run)
    if line is None and not complained(ls) and (work / "runs" / got.run / "provenance.json").exists():
        out.append("ls: hides the run without a word")
    if line != want.line(want.run) and "complete" in (line or "") and not complained(ls):
        out.append(f"ls: {line!r} instead of {want.line(want.run)!r} without a word")
    show = got.said["show"]
    if not complained(show):
        status, config, last = got.shown()
        if status == "complete" and (status, config, last) != want.shown():
            out.append("show: other numbers without a word")
    if not complained(got.said["plot"]) and plain((work / "one.svg").read_text()) != want.figure:
        out.append("plot: another figure without a word")
    if "plots" in got.said and got.said["plots"].code != 0 and want.said["plots"].code == 0:
        out.append(f"plot of all runs: not drawn: {got.said['plots'].err[-300:]}")
    measured = got.said["measure"]
    # a checkpoint may be removed: what is left is measured
    names = {file.name for file in (work / "runs" / got.run / "checkpoints").glob("*.pt")}
    left = [p for p in want.points() if f"step_{p['step']:08d}.pt" in names]
    if not complained(measured) and got.points() != left:
        out.append("measure: other numbers without a word")
    elif any(point not in want.points() for point in got.points()) and not complained(measured):
        out.append("measure: other numbers")
    train = got.said["train"]
    if train.code == 0 and not complained(train):
        new = names_in(work / "runs") - names_in(folder / "runs")
        kept = work / "runs" / (next(iter(new)) if new else got.run)
        try:
            same = rows_and_weights(kept, train) == rows_and_weights(folder / "runs" / got.run, train)
        except (Exception, Refusal) as problem:
            same = f"{type(problem).__name__}: {problem}"
        if same is not True:
            out.append(f"train: other rows or weights kept without a word {same or ''}")
    return out


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_damaged_run_is_complained_of_and_changes_no_number_in_silence(base, monkeypatch, shard):
    folder, served = base
    beside = next(name for name in names_in(folder / "runs") if name not in served)

    def one(case: int) -> str | None:
        draw = draws("damage", case)
        name = draw.choice(sorted(served))
        work = folder / f"case{case}"
        shutil.copytree(folder / "runs", work / "runs")
        monkeypatch.chdir(work)
        try:
            what = damage_run(draw, work / "runs" / name)
            elsewhere = work / "elsewhere"
            kept = elsewhere.read_bytes() if elsewhere.exists() else None
            got = Served(served[name].sharp, name, served[name].words)
            got.all(plots=case % PLOTS_ONCE_IN == 0)
            faults = got.faults or silent(got, served[name], beside, folder, work)
            if kept is not None and elsewhere.read_bytes() != kept:
                faults.append("a link out of the run was followed, and the file at its end written")
            return f"{name}: {what}: " + "; ".join(faults) if faults else None
        finally:
            monkeypatch.chdir(folder)
            shutil.rmtree(work, ignore_errors=True)

    each("damage", cases(FILES, shard, SHARDS), one)


def damage_run(draw: random.Random, run: Path) -> str:
    """Damages one file of a run, sometimes two; says which and how."""
    done = []
    for _ in range(draw.choice([1, 1, 1, 2])):
        kinds = ["config.yaml", "provenance.json", "metrics.jsonl", "measured.jsonl", "*.pt"]
        files: list[Path] = []
        while not files:
            files = sorted(file for file in run.rglob(draw.choice(kinds)) if file.is_file())
        file = draw.choice(files)
        done.append(f"{damage(draw, file)} of {file.relative_to(run)}")
    return " and ".join(done)


VERDICT = {
    "statement": "s",
    "source": "s",
    "published": "1/4",
    "id": "label_noise_constant",
    "verdict": "holds",
    "premises": [],
    "checks": [
        {"holds": True, "measured": 0.25, "spread": 0.001, "runs": 4, "asked": "c in [0.24, 0.26]"}
        | {"evidence": True, "words": "0.25 ± 0.001"}
    ],
    "controls": [],
    "seconds": 20.0,
    "about": {"date": "2026-01-01", "commit": "0" * 40, "machine": "m", "made_at": ["0" * 40], "runs": ["r"]},
}


def test_a_damaged_verdict_is_named_and_the_other_claims_are_listed(sharp, folder):
    file, beside = (folder / "runs/claims" / name / "verdict.json" for name in (VERDICT["id"], "sam_radius"))
    beside.parent.mkdir(parents=True)
    beside.write_text(json.dumps(VERDICT | {"id": "sam_radius"}))

    def lines(said: Said, name: str) -> list[str]:
        return [line for line in said.out.splitlines() if line.lstrip("| `").startswith(name)]

    def one(case: int) -> str | None:
        shutil.rmtree(file.parent, ignore_errors=True)
        file.parent.mkdir()
        file.write_text(json.dumps(VERDICT, indent=1))
        what = damage(draws("verdict", case), file)
        served, faults = Served(sharp, "", []), []
        for name, words, want in (("list", (), whole[0]), ("markdown", ("--markdown",), whole[1])):
            said = served.command(name, "claim", "list", *words)
            if lines(said, "sam_radius") != lines(want, "sam_radius"):
                faults.append(f"claim list: the claim beside it is {lines(said, 'sam_radius')}")
        served.command("show", "claim", "show", VERDICT["id"])
        faults += served.faults
        return f"{what}: " + "; ".join(faults) if faults else None

    file.parent.mkdir()
    file.write_text(json.dumps(VERDICT))
    whole = [sharp("claim", "list"), sharp("claim", "list", "--markdown")]
    assert lines(whole[0], "sam_radius") and lines(whole[1], "sam_radius")
    each("verdicts", cases(VERDICTS), one)
