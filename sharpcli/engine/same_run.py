"""Whether a run directory is the run of a config: by its hash, and by what the run was made of (data, first
weights)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharpcli.config import former
from sharpcli.config.check import Checked
from sharpcli.config.identity import first_difference, numbers_of
from sharpcli.errors import Refusal
from sharpcli.run import HASHES, Run

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
    """All runs of this config, whatever their data; names that end in a hash of their data come last.

    A run is found by the hash in its name: today's of 16 digits, or the 8 that earlier versions gave it.
    Since two configs can have the same 8 digits, whole configs are compared. Refuses a run of this hash whose
    config.yaml is neither this config nor of this hash: somebody has changed it.
    """
    runs_dir = Path(checked.local["runs_dir"])
    hashes = {checked.hash, checked.hash[: former.DIGITS], checked.former_hash}
    found: list[tuple[bool, Path]] = []
    for path in runs_dir.iterdir() if runs_dir.is_dir() else ():
        match = HASHES.search(path.name)
        of_config, _, of_data = match[1].partition("-") if match else ("", "", "")
        if of_config in hashes and os.path.lexists(path / "provenance.json"):
            found.append((bool(of_data), path))
    runs = [Run(path) for _, path in sorted(found)]
    return [run for run in runs if _is_of(run, checked)]


def _is_of(run: Run, checked: Checked) -> bool:
    """Whether a run has this config, and not only its hash."""
    contents = run.provenance.get("contents", checked.contents)
    if run.provenance["version"] == 1:
        stored, asked = former.of_format_1(run.stored), former.as_format_1(checked.config, checked.contents)
    else:
        stored, asked = (
            numbers_of(run.stored, contents),
            numbers_of(checked.config, checked.contents),
        )
    if stored == asked:
        return True
    if not run.altered(contents):
        return False
    difference = first_difference(stored, asked)
    raise Refusal(
        f"{run.path}: its config.yaml was changed after the run was made ({difference}); restore it, or move "
        f"the directory away"
    )


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
    same_torch = before.get("packages", {}).get("torch") == now["packages"]["torch"]
    return names if same_torch else [*names, "torch"]
