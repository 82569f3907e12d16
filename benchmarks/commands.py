"""Seconds that quick commands take, and the peak memory of resnet20_cifar10."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import table

from sharpcli.run import Run

SHARP = [sys.executable, "-m", "sharpcli"]


def median_seconds(*words: str) -> float:
    """Wall-clock seconds of a whole process."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([*SHARP, *words], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def gigabytes(*words: str) -> float:
    """Peak resident memory of a whole process."""
    child = subprocess.Popen([*SHARP, *words])
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0
    return used.ru_maxrss / 1e6


with tempfile.TemporaryDirectory() as folder:
    for i in range(1000):
        path = Path(folder) / "many" / f"gd-network-lr{i}-seed0-{i:08x}"
        Run.create(path, {"seed": 0}, {"steps": 9}).log({"step": 9, "train_loss": 0.1, "lambda_1": 1.0})
    quick = [
        ("sharp --help", median_seconds("--help")),
        ("sharp ls, 1,000 runs", median_seconds("ls", f"{folder}/many")),
    ]
    preset = [
        "train",
        "experiment=resnet20_cifar10",
        "steps=20",
        "measure_every=20",
        f"runs_dir={folder}/one",
    ]
    peak = gigabytes(*preset)
    mlp = [
        "train",
        "data=cifar10",
        "steps=0",
        "measure=[sharpness]",
        "measure.sharpness.max_products=2",
        "graph_gb=0.01",
    ]
    chunks = [gigabytes(*mlp, f"measure_examples={n}", f"runs_dir={folder}/{n}") for n in (5000, 50_000)]

rows = [(name, f"{value:.2f} s", "< 0.5 s") for name, value in quick]
rows.append(("peak memory, resnet20_cifar10, 20 steps, 2 measurements", f"{peak:.2f} GB", "< 4 GB"))
rows.append(
    ("the same measured on 50,000 images / on one chunk of 5,000", f"{chunks[1] / chunks[0]:.2f}", "1")
)
table("commands", rows)
