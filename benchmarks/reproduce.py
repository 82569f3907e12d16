"""Minutes and peak memory of `make reproduce` from nothing: every claim of tier quick, in an empty directory,
or in FOLDER to keep its verdicts: `python benchmarks/reproduce.py [FOLDER]`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import machine, table


def resident(parent: int) -> int:
    """Kilobytes of memory that a process and all its descendants hold now, shared pages counted once for
    each."""
    kin = {parent}
    status = {}
    for entry in Path("/proc").glob("[0-9]*/status"):
        try:
            status[int(entry.parent.name)] = dict(
                line.split(":", 1) for line in entry.read_text().splitlines() if ":" in line
            )
        except OSError:  # it has ended
            continue
    while more := {pid for pid, told in status.items() if int(told["PPid"]) in kin} - kin:
        kin |= more
    return sum(int(status[pid].get("VmRSS", "0 kB").split()[0]) for pid in kin if pid in status)


def main() -> None:
    """See the top."""
    with tempfile.TemporaryDirectory() as empty:
        folder = sys.argv[1] if len(sys.argv) > 1 else empty
        started, peak = time.perf_counter(), 0
        command = [
            sys.executable,
            "-m",
            "sharpcli",
            "claim",
            "check",
            "--tier",
            "quick",
            f"runs_dir={folder}",
        ]
        checking = subprocess.Popen(command)
        while checking.poll() is None:
            peak = max(peak, resident(checking.pid))
            time.sleep(1)
        minutes = (time.perf_counter() - started) / 60
    table(
        "make reproduce",
        [
            ("minutes", f"{minutes:.1f}", "< 10"),
            ("peak memory of all its processes, GB", f"{peak / 2**20:.2f}", "< 4"),
            ("exit code", str(checking.returncode), "0"),
        ],
    )
    print(machine())


if __name__ == "__main__":
    main()
