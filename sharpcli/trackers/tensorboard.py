"""TensorBoard: event files that `tensorboard --logdir` shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard.writer import SummaryWriter

from sharpcli.trackers import numbers


class TensorBoard:
    """Writes to `folder`/`name`."""

    def __init__(self, name: str, config: Mapping[str, Any], folder: Path) -> None:
        self._writer = SummaryWriter(str(folder / name))
        self._writer.add_text("config", f"```\n{yaml.safe_dump(dict(config), sort_keys=False)}```")

    def row(self, row: Mapping[str, Any]) -> None:
        """Takes the row of a step."""
        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def begin(name: str, config: Mapping[str, Any], folder: Path | None) -> TensorBoard:
    """Event files in `folder`, by default tensorboard/."""
    return TensorBoard(name, config, folder or Path("tensorboard"))
