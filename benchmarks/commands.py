"""The seconds that quick commands take, and the peak memory of training resnet20_cifar10.

`python benchmarks/commands.py`; needs CIFAR-10.
"""

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
ROUNDS = 7  # of which the median is taken


def median_seconds(*arguments: str) -> float:
    """The median wall-clock seconds of a whole process of `sharp` with these arguments."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run([*SHARP, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_gigabytes(*arguments: str) -> float:
    """The peak resident memory of a whole process of `sharp` with these arguments, in GB (Linux)."""
    process = subprocess.Popen([*SHARP, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss / 1e6


def quick_commands(folder: Path) -> list[tuple[str, str, str]]:
    """The rows of commands that do not train; `folder` is filled with 1,000 runs."""
    for i in range(1000):
        path = folder / f"gd-network-lr{i}-seed0-{i:08x}"
        Run.create(path, {"seed": 0}, {"steps": 9}).log({"step": 9, "train_loss": 0.1, "lambda_1": 1.0})
    times = {
        "sharp --help": median_seconds("--help"),
        "sharp ls, 1,000 runs": median_seconds("ls", str(folder)),
    }
    return [(name, f"{value:.2f} s", "< 0.5 s") for name, value in times.items()]


def memory(folder: Path) -> list[tuple[str, str, str]]:
    """The rows of peak memory; the runs are made in `folder`."""
    resnet = ["train", "experiment=resnet20_cifar10", "steps=20", "measure_every=20"]
    peak = peak_gigabytes(*resnet, f"runs_dir={folder}/resnet")
    mlp = ["train", "data=cifar10", "steps=0", "measure=[sharpness]", "measure.sharpness.max_products=2"]
    one_chunk, ten_chunks = (
        peak_gigabytes(*mlp, "graph_gb=0.01", f"measure_examples={n}", f"runs_dir={folder}/{n}")
        for n in (5000, 50_000)
    )
    return [
        ("peak memory, resnet20_cifar10, 20 steps, 2 measurements", f"{peak:.2f} GB", "< 4 GB"),
        (
            "peak memory of an mlp, measured on 50,000 images / on 5,000",
            f"{ten_chunks / one_chunk:.2f}",
            "1",
        ),
    ]


def main() -> None:
    """Measures and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = quick_commands(Path(folder) / "many") + memory(Path(folder))
    table("commands", rows)


if __name__ == "__main__":
    main()
