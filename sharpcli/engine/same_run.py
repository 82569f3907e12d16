"""Whether a run directory is the run of a config: by its hash, and by what the run was made of (data, first
weights)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpcli.config.check import Checked
from sharpcli.run import Run

INPUTS = {
    "data": "training data",
    "test_data": "test data",
    "classes": "kind of targets",
    "held_values": "frozen parameters or buffers",
    "start": "first weights",
}
DRAWN = ("held_values", "start")  # may be drawn at random, by a generator that differs between devices
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
    """What differs from what a run has recorded: its data, its test data, what its model holds (frozen
    parameters, buffers), and its first weights, which a user's model may read from a file. Random first
    weights depend on the device and on torch: under others they are not compared. An input that a run did not
    record is not compared."""
    names = dict(INPUTS)
    if rounding_differences(before, now, ("device",)):
        names = {key: what for key, what in INPUTS.items() if key not in DRAWN}
    return [what for key, what in names.items() if key in before and before[key] != now.get(key)]


def rounding_differences(
    before: dict[str, Any], now: dict[str, Any], facts: Sequence[str] = ROUNDING
) -> list[str]:
    """Names of the facts that affect rounding (device, threads, TF32, version of torch) and differ."""
    names = [key for key in facts if before.get(key) != now.get(key)]
    same_torch = before["packages"].get("torch") == now["packages"]["torch"]
    return names if same_torch else [*names, "torch"]
