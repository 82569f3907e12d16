"""Whether a run directory is the run of a config: by its hash, and by what the run was made of (data, first
weights)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpcli.config.check import Checked
from sharpcli.run import Run

ROUNDING = ("device", "threads", "tf32")  # facts of a machine that decide the last digits of a sum


def runs_of(checked: Checked) -> list[Run]:
    """All runs with this config's hash, or with the hash that format 1 gave it, whatever their data; names
    that end in a hash of their data come last."""
    runs_dir = Path(checked.local["runs_dir"])
    files = [
        *runs_dir.glob(f"*-{checked.hash}/provenance.json"),
        *runs_dir.glob(f"*-{checked.former_hash}/provenance.json"),
        *sorted(runs_dir.glob(f"*-{checked.hash}-*/provenance.json")),
    ]
    return [Run(file.parent) for file in files]


def changed_inputs(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the inputs that differ from those recorded with a run: its data and test data; on the same
    device, threads and version of torch also its first and its frozen weights, which a user's model may read
    from a file. An input that a run did not record is not compared."""
    names = {"data": "training data", "test_data": "test data"}
    if not rounding_differences(before, now, ("device", "threads")):
        names |= {"start": "first weights", "frozen_values": "frozen weights"}
    return [what for key, what in names.items() if key in before and before[key] != now.get(key)]


def rounding_differences(
    before: dict[str, Any], now: dict[str, Any], facts: Sequence[str] = ROUNDING
) -> list[str]:
    """Names of the facts that affect rounding (device, threads, TF32, version of torch) and differ."""
    names = [key for key in facts if before.get(key) != now.get(key)]
    same_torch = before["packages"].get("torch") == now["packages"]["torch"]
    return names if same_torch else [*names, "torch"]
