"""Very many runs: in one sweep without a leak, and in one folder within bounds of time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from conftest import CIFAR, only_run

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.run import Run
from sharpcli.runs_dir import find
from torture import amount

SWEEP = 500
SETTLED = 0.2  # the part of a sweep in which caches fill
KILOBYTES_A_RUN = 180.0  # Hydra keeps the config of each job, and its own, to the end of a sweep
IN_A_FOLDER = 10_000
# seconds with 10,000 runs, on a busy machine; a command's own start is in them
BOUNDS = {"ls": 20.0, "find": 5.0, "complete": 10.0, "resume": 15.0, "refuse": 10.0}


def memory(number: int) -> float:
    """Kilobytes that a process holds in memory, without what it maps from files."""
    status = Path(f"/proc/{number}/status").read_text()
    return float(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])


def test_a_sweep_leaks_neither_memory_nor_handles(folder, record_property):
    runs = max(10, amount(SWEEP))
    words = ["train", "-m", f"seed=range({runs})", "problem=uv", "problem.d=4", "problem.n=3"]
    words += ["steps=2", "measure_every=1", "measure=[scores,sharpness]"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "SHARP_DATA": str(CIFAR.absolute())}
    seen: list[tuple[float, int, int]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "sharpcli", *words],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        for line in child.stdout:
            if ": complete" in line:
                at = Path(f"/proc/{child.pid}")
                handles, threads = len(os.listdir(at / "fd")), len(os.listdir(at / "task"))
                seen.append((memory(child.pid), handles, threads))
    assert child.returncode == 0 and len(seen) == runs
    settled = seen[int(SETTLED * runs) : -1]
    # the least of a tenth at each end: what is freed soon is no leak
    part = max(1, len(settled) // 10)
    grown = min(s[0] for s in settled[-part:]) - min(s[0] for s in settled[:part])
    growth = grown / len(settled)
    record_property("kilobytes a run", round(growth, 1))
    handles, threads = {s[1] for s in settled}, {s[2] for s in settled}
    print(f"\n{runs} runs: {growth:.1f} kB a run, {handles} handles, {threads} threads, {seen[-1][0]:.0f} kB")
    assert max(handles) - min(handles) <= 2, f"open files: {sorted(handles)}"
    assert max(threads) - min(threads) <= 2, f"threads: {sorted(threads)}"
    if runs >= 100:
        assert growth < KILOBYTES_A_RUN, f"{growth:.1f} kB a run over {len(settled)} runs"


def test_ten_thousand_runs_in_a_folder_are_listed_found_and_carried_on(
    sharp, folder, monkeypatch, record_property
):
    """At a small share of it fewer runs, and the same bounds."""
    number = max(300, amount(IN_A_FOLDER))
    words = ["problem=quadratic", "steps=4", "measure_every=2", "measure=[scores]"]
    assert sharp("train", *words).code == 0
    first = Run(only_run(folder))
    rows = (first.path / "metrics.jsonl").read_bytes()
    facts = {key: value for key, value in first.provenance.items() if key != "version"}
    checked = check(compose(words), words)
    for seed in range(1, number):
        other = replace(checked, config=checked.config | {"seed": seed})
        run = Run.create(folder / "runs" / other.name, other.config, facts)
        (run.path / "metrics.jsonl").write_bytes(rows)
    seconds: dict[str, float] = {}

    def timed(name: str, *command: str):
        began = time.monotonic()
        said = sharp(*command)
        seconds[name] = time.monotonic() - began
        return said

    said = timed("ls", "ls")
    assert said.code == 0 and len(said.out.splitlines()) == number + 1, said.err[-500:]
    middle = replace(checked, config=checked.config | {"seed": number // 2})
    began = time.monotonic()
    for word in (middle.name, middle.hash, str(folder / "runs" / middle.name), middle.name[:-4]):
        assert find(word, folder / "runs").name == middle.name
    seconds["find"] = time.monotonic() - began
    assert timed("show", "show", middle.hash).code == 0
    assert timed("resume", "train", *words, f"seed={number + 7}").code == 0
    assert "already complete" in timed("skip", "train", *words).out
    assert "no such run" in timed("refuse", "show", "no-such-run-at-all").refusal
    began = time.monotonic()
    env = os.environ | {"_SHARP_COMPLETE": "complete_bash", "COMP_WORDS": "sharp show gd", "COMP_CWORD": "2"}
    completed = subprocess.run(
        [str(Path(sys.executable).with_name("sharp"))],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    seconds["complete"] = time.monotonic() - began
    assert len(completed.stdout.split()) >= number, completed.stderr[-500:]
    record_property("seconds", json.dumps({name: round(value, 2) for name, value in seconds.items()}))
    print(f"\n{number} runs: " + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    slow = {name: value for name, value in seconds.items() if value > BOUNDS.get(name, 15.0)}
    assert not slow, slow
