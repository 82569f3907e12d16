"""Rows handed on to what people already use: TensorBoard, Weights & Biases, MLflow. One way only.

A tracker takes a run's rows one after the other, for `sharp export` and for `sharp.Watch`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sharpcli.errors import Refusal

NAMES = ("tensorboard", "wandb", "mlflow")


@runtime_checkable
class Tracker(Protocol):
    """Where rows go."""

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes the row of a step."""

    def close(self) -> None:
        """Writes what is left."""


def tracker(kind: str, name: str, config: Mapping[str, Any], folder: Path | None) -> Tracker:
    """The tracker of a kind, for a run of this name and config; in a `folder`, or where the library's own
    settings say. Refuses a kind that there is none of, and a library that is not installed."""
    if kind not in NAMES:
        raise Refusal(f"--to {kind}: possible: {', '.join(NAMES)}")
    try:
        module = importlib.import_module(f"sharpcli.trackers.{kind}")
    except ImportError as problem:
        raise Refusal(f"--to {kind}: {problem}; pip install 'sharpcli[{kind}]'") from None
    return module.begin(name, config, folder)


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The columns of a row that are numbers, without its step; a truth is 0 or 1."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, bool | int | float) and key != "step"
    }
