"""Listing, exporting, drawing and reporting many runs: seconds, memory and size, as whole commands.

    python benchmarks/runs_directory.py [--runs 10000 --rows 1000 --tables parquet]

The runs are copies of a small real one, with rows between its first and its last. Timed are `sharp ls`
without its index and with it, an export to .parquet and .csv, each plot of 100 runs, and a report of them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.run import Run

SHARP = [sys.executable, "-m", "sharpcli"]
SOURCE = ("data.train_examples=60", "model.widths=[6]", "steps=20", "measure_every=2", "threads=1")
PLOTS = {
    "sharpness": (),
    "loss": (),
    "compare": ("y=lambda_1", "by=[seed]"),
    "table": (),
    "scatter": ("by=[]",),
}


def made(folder: Path, count: int, rows: int) -> None:
    """`count` finished runs of `rows` rows each: copies of one, with names, hashes and seeds of their own."""
    subprocess.run([*SHARP, "train", *SOURCE, f"runs_dir={folder}/source"], check=True, capture_output=True)
    (source,) = (folder / "source").iterdir()
    lines = [json.loads(line) for line in (source / "metrics.jsonl").read_text().splitlines()]
    long = "".join(json.dumps(row) + "\n" for row in between(lines[0], lines[-1], rows)).encode()
    first = Run(source)
    facts = {key: value for key, value in first.provenance.items() if key != "version"}
    facts |= {"steps": rows - 1, "rows": {"bytes": len(long), "crc32": zlib.crc32(long)}}
    checked = check(compose([*SOURCE, f"steps={rows - 1}"]), [])
    past = time.time() - 60
    for seed in range(count):
        other = replace(checked, config=checked.config | {"seed": seed})
        run = Run.create(folder / "runs" / other.name, other.config, facts | {"hash": other.hash})
        (run.path / "metrics.jsonl").write_bytes(long)
        for file in run.path.iterdir():
            os.utime(file, (past, past))


def between(first: dict[str, Any], last: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """Rows that go from the first to the last as a run does, fast and then slowly, with noise of 1 %."""
    noise = random.Random(0)
    for step in range(count):
        share = 1 - math.exp(-5 * step / count)
        row = {
            key: (value + share * (last[key] - value)) * noise.uniform(0.99, 1.01)
            for key, value in first.items()
            if isinstance(value, float) and key not in ("lr_now", "edge", "epoch")
        }
        yield first | row | {"step": step, "epoch": 2.0 * step}


def timed(folder: Path, *words: str) -> str:
    """Seconds and peak memory of a command; ends where it fails."""
    began = time.perf_counter()
    child = subprocess.Popen([*SHARP, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _, err = child.communicate()
    if child.returncode:
        raise SystemExit(f"sharp {' '.join(words)}: {err.decode()[-500:]}")
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # the largest child so far
    return f"{time.perf_counter() - began:6.2f} s  (largest command so far {most:.2f} GB)"


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--tables", nargs="*", default=["parquet", "csv"], help="endings to export to")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        few = Path(name) / "few"
        made(few, 100, options.rows)
        print(f"100 runs of {options.rows} rows")
        for plot, words in PLOTS.items():
            ending = "md" if plot == "table" else "png"
            print(f"  plot {plot:10} {timed(few, 'plot', plot, 'runs', *words, '-o', f'x.{ending}')}")
        line = timed(few, "report", "-o", "r.html")
        print(f"  report          {line}, {(few / 'r.html').stat().st_size / 1e6:.1f} MB")
        many = Path(name) / "many"
        made(many, options.runs, options.rows)
        print(f"{options.runs} runs of {options.rows} rows")
        print(f"  ls, no index    {timed(many, 'ls')}")
        print(f"  ls, again       {timed(many, 'ls')}")
        for ending in options.tables:
            line = timed(many, "export", "runs", "-o", f"all.{ending}")
            print(f"  export {ending:8} {line}, {(many / f'all.{ending}').stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
