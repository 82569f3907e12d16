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


with tempfile.TemporaryDirectory() as folder:
    for i in range(1000):
        path = Path(folder) / "many" / f"gd-network-lr{i}-seed0-{i:08x}"
        Run.create(path, {"seed": 0}, {"steps": 9}).log({"step": 9, "train_loss": 0.1, "lambda_1": 1.0})
    quick = [("sharp --help", median_seconds("--help")), ("sharp ls, 1,000 runs", median_seconds("ls", f"{folder}/many"))]
    preset = ["train", "experiment=resnet20_cifar10", "steps=20", "measure_every=20", f"runs_dir={folder}/one"]
    child = subprocess.Popen([*SHARP, *preset])
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0

rows = [(name, f"{value:.2f} s", "< 0.5 s") for name, value in quick]
table(
    "commands", [*rows, ("peak memory, resnet20_cifar10, 20 steps, 2 measurements", f"{used.ru_maxrss / 1e6:.2f} GB", "< 4 GB")]
)
