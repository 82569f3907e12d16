"""The minutes and the peak memory of `make reproduce` without any run at hand: every claim of tier quick, in
an empty temporary directory, or in FOLDER to keep the runs and verdicts.

`python benchmarks/reproduce.py [FOLDER]` (Linux).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine, table


def resident(parent: int) -> int:
    """Kilobytes of memory that the process `parent` and all its descendants hold now; pages that several
    share count for each."""
    statuses = {}
    for file in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = file.read_text().splitlines()
        except OSError:  # the process has ended
            continue
        statuses[int(file.parent.name)] = dict(line.split(":", 1) for line in lines if ":" in line)
    family = {parent}
    while children := {pid for pid, s in statuses.items() if int(s["PPid"]) in family} - family:
        family |= children
    return sum(int(statuses[pid].get("VmRSS", "0 kB").split()[0]) for pid in family if pid in statuses)


def main() -> None:
    """Runs the claims and prints the table."""
    with tempfile.TemporaryDirectory() as empty:
        folder = sys.argv[1] if len(sys.argv) > 1 else empty
        started, peak = time.perf_counter(), 0
        command = [*(sys.executable, "-m", "sharpcli"), "claim", "check", "--tier", "quick", "--dirty"]
        process = subprocess.Popen([*command, f"runs_dir={folder}"])
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(1)
        minutes = (time.perf_counter() - started) / 60
    table(
        "make reproduce",
        [
            ("minutes", f"{minutes:.1f}", "< 10"),
            ("peak memory of all its processes, GB", f"{peak / 2**20:.2f}", "< 4"),
            ("exit code", str(process.returncode), "0"),
        ],
    )
    print(machine())


if __name__ == "__main__":
    main()
