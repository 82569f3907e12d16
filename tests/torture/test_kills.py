"""Runs killed at random moments: the same command carries on, to the rows and weights of a run left alone."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import CIFAR, rows_of

from sharpcli.config.folders import options
from sharpcli.run import Run
from torture import SHARDS, cases, draws, each

KILLS = 200
KILLS_A_RUN = 2
LONGEST = 60.0  # seconds that a run of these may take at most, on a busy machine
# each problem at a size where a step and a row take about ten milliseconds
PROBLEMS = {
    "network": "data.train_examples=60 model.widths=[6]",
    "uv": "problem.d=6 problem.n=4",
    "hadamard": "problem.d=6 problem.n=4",
    "quadratic": "",
    "teacher": "problem.d=3 problem.n=6 problem.width=4",
    "matrix_sensing": "problem.d=3 problem.n=5",
    "squares": "problem.d=6 problem.n=4",
    "xor": "problem.d=3 problem.n=6 problem.width=4",
    "least_squares": "problem.d=8 problem.n=5",
    "deep_factorization": "problem.d=3 problem.n=5",
    "quartic": "",
    "self_stabilization": "",
    "matrix_factorization": "problem.d=3 problem.n=9",
    "two_well": "",
    "valley": "",
}
# muon takes weights with matrices, which most toys have not
METHODS = [f"method={name}" for name in options("method") if name != "muon"] + [
    "method=sgd optimizer=adam",
    "method=gd optimizer=rmsprop",
    "method=sgd optimizer=sam",
    "method=sgd schedule=cosine",
    "method=sgd optimizer=adamw schedule=one_cycle",
    "method=sgd optimizer=lion schedule=warmup schedule@schedule.base=linear",
    "method=sgd optimizer=clipping optimizer@optimizer.base=momentum schedule=multistep",
    "method=gd optimizer=sign_descent schedule=warmup_stable_decay",
    "method=sgd objective=[weight_decay,weight_noise]",
    "method=sgd schedule=decay_at_loss schedule.loss=0.5",
    "method=gd objective=[langevin]",
    "method=sgd objective=[svag]",
    "method=gd objective=[trace_penalty]",
    "method=sgd replacement=true replicas=3",
    "method=label_noise replicas={seed:2,lr:[0.01,0.02]}",
    "method=momentum batch_size=full compile_toys=false",
]
FIT_NOT_AT_ALL = ("network", "teacher", "xor")  # a limiting flow searches here for minutes and then refuses
MEASURES = ("[scores,sharpness]", "[scores,sharpness,trace]", "[scores]", "[scores,norms,gradient_norm]")


@dataclass
class Ended:
    """How a command ended: its exit code, minus the signal's number where it was killed; what it said."""

    code: int
    err: str
    seconds: float
    touched: int


class Server:
    """A process that forks one for each command (see server.py)."""

    def __init__(self, folder: Path) -> None:
        env = os.environ | {"OMP_NUM_THREADS": "1", "SHARP_DATA": str(CIFAR.absolute()), "COLUMNS": "200"}
        script = Path(__file__).with_name("server.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=folder
        )
        self.unread = b""
        assert self._line(120) == "ready"

    def _line(self, seconds: float) -> str | None:
        """The next line of its answers, or None where there is none within `seconds`."""
        until = time.monotonic() + seconds
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return None
            self.unread += os.read(self.process.stdout.fileno(), 4096)
        line, _, self.unread = self.unread.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Ends it."""
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def run(self, words: str, folder: Path, after: float | None = None, boundary: int | None = None) -> Ended:
        """A command; killed `after` so many seconds, or before its `boundary`th touch of a file."""
        folder.mkdir(exist_ok=True)
        (folder / "touched").unlink(missing_ok=True)
        began = time.monotonic()
        request = {"words": words.split(), "folder": str(folder), "boundary": boundary}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        number = int(self._line(30))
        status = self._line(LONGEST if after is None else after)
        if status is None:
            os.kill(number, signal.SIGKILL)
            status = self._line(30)
            assert after is not None, f"no end within {LONGEST} s: sharp {words}"
        touched = folder / "touched"
        return Ended(
            int(status),
            (folder / "err").read_text(),
            time.monotonic() - began,
            int(touched.read_text()) if touched.exists() else 0,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


def words_of(case: int) -> list[str]:
    """The commands of a case, in the order in which they are tried: the first that is not refused is its run.
    Successive cases go through all problems, and through all methods."""
    names, draw = list(PROBLEMS), draws("kill", case)
    problem = names[case % len(names)]
    methods = [
        m for m in METHODS if problem not in FIT_NOT_AT_ALL or ("limiting" not in m and "sam_flow" not in m)
    ]
    first = case + case // len(names)
    steps = draw.choice([6, 10]) if problem == "network" else draw.choice([20, 40])
    common = (
        f"problem={problem} {PROBLEMS[problem]} steps={steps} measure_every={draw.choice([1, 1, 2, 3])} "
        f"checkpoint_every={draw.choice([1, 2, 3, 7])} measure={draw.choice(MEASURES)} "
        f"seed={draw.randrange(5)} lr={draw.choice([0.2, 0.05, 0.01])}"
    )
    return [f"train {methods[(first + i) % len(methods)]} {common}" for i in range(len(methods))]


def weights(run: Run) -> list[torch.Tensor]:
    """All the tensors of the last checkpoint."""
    out: list[torch.Tensor] = []

    def walk(value) -> None:
        if isinstance(value, torch.Tensor):
            out.append(value)
        elif isinstance(value, dict):
            for key in sorted(value):
                walk(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                walk(item)

    walk(run.load(run.checkpoints()[-1]))
    return out


def one_run(folder: Path) -> Run:
    (file,) = (folder / "runs").glob("*/provenance.json")
    return Run(file.parent)


def moment(draw, whole: Ended, seconds_of_loop: float) -> dict:
    """When to kill: before a random write, or after a random time, mostly in the loop and not before it."""
    if draw.random() < 0.4:
        return {"boundary": 1 + draw.randrange(whole.touched)}
    start = 0.0 if draw.random() < 0.15 else max(0.0, whole.seconds - seconds_of_loop - 0.1)
    return {"after": draw.uniform(start, whole.seconds)}


@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_killed_run_is_carried_on_to_the_rows_and_weights_of_a_whole_one(
    server, tmp_path, shard, record_property
):
    done = {"kills": 0}

    def one(case: int) -> str | None:
        draw, folder = draws("moment", case), tmp_path / str(case)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for words in words_of(case):
            shutil.rmtree(folder / "whole", ignore_errors=True)  # a flow may be refused midway
            whole = server.run(words, folder / "whole")
            if whole.code != 2:
                break
        if whole.code != 0:
            return f"{words}: exit code {whole.code}: {whole.err[-2000:]}"
        expected = one_run(folder / "whole")
        loop = expected.last()["seconds"]
        kills, moments, tries = 0, [], 0
        while kills < KILLS_A_RUN:
            tries += 1
            when = moment(draw, whole, loop)
            if "after" in when:  # a kill too late is none: earlier and earlier
                when["after"] *= 0.8 ** max(0, tries - KILLS_A_RUN)
            ended = server.run(words, folder / "cut", **when)
            if ended.code == -signal.SIGKILL:
                kills += 1
                moments.append(when)
                continue
            if ended.code != 0:
                return f"{words}: killed at {moments}, then exit code {ended.code}: {ended.err[-2000:]}"
            shutil.rmtree(folder / "cut")  # it was complete before the kill came
            kills, moments = 0, []
            assert tries < 50, "no kill came in time"
        last = server.run(words, folder / "cut")
        done["kills"] += kills
        if last.code != 0:
            return f"{words}: killed at {moments}, then exit code {last.code}: {last.err[-2000:]}"
        found = one_run(folder / "cut")
        if rows_of(found.path / "metrics.jsonl") != rows_of(expected.path / "metrics.jsonl"):
            return f"{words}: killed at {moments}: other rows than a whole run's, in {folder}"
        pairs = list(zip(weights(found), weights(expected), strict=True))
        if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
            return f"{words}: killed at {moments}: other weights than a whole run's, in {folder}"
        if found.checkpoints() != expected.checkpoints():
            return f"{words}: killed at {moments}: other checkpoints than a whole run's, in {folder}"
        shutil.rmtree(folder)
        return None

    each("kills", cases(KILLS // KILLS_A_RUN, shard, SHARDS), one)
    record_property("kills", done["kills"])
