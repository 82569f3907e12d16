"""Weights & Biases: a run of the project `sharp`, online or, as WANDB_MODE=offline says, in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from sharpcli.trackers import numbers


class Wandb:
    """A run of Weights & Biases."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path | None) -> None:
        where: Any = {} if folder is None else {"dir": str(folder)}
        self._run = wandb.init(project="sharp", name=name, config=dict(config), reinit="create_new", **where)

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes the row of a step."""
        self._run.log(numbers(row), step=int(row["step"]))

    def close(self) -> None:
        """Writes what is left."""
        self._run.finish()


def begin(name: str, config: Mapping[str, Any], folder: Path | None) -> Wandb:
    """A run named as sharp's, its files in `folder`, by default wandb/."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Wandb(name, config, folder)
