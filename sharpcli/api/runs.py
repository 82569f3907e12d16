"""`sharp.runs`: the runs of a directory as a frame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sharpcli.api.refused import python
from sharpcli.commands.report import complain
from sharpcli.config.paths import expanded, is_file
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of, meeting
from sharpcli.runs_dir import in_directory

if TYPE_CHECKING:
    import pandas as pd


@python
def runs(folder: str | Path = "runs", where: str | None = None) -> pd.DataFrame:
    """All rows of all runs in a folder, one for each run and measured step:

        frame = sharp.runs("runs", where="method == 'sam' and lr > 0.01")

    Its columns are the settings by their dotted names (`lr`, `optimizer.rho`), `run`, and all that was logged
    or measured later (`step`, `lambda_1`, ...); `frame.attrs["settings"]` names the settings. A run that
    cannot be read is left out with a line on standard error. Raises `Refused` for a folder that is none, and
    a condition that no row meets."""
    if where is not None and not isinstance(where, str):
        raise Refusal(f"where={where!r}: give a text, as in where=\"method == 'sam'\"")
    path = expanded(folder)
    if not path.is_dir():
        raise Refusal(f"{folder}: no such directory; name the folder that holds the runs")
    if is_file(path / "config.yaml"):
        raise Refusal(f"{folder}: is a run; name the folder that holds it, {path.parent}")
    frame = frame_of(in_directory(path, complain), complain)
    return frame if where is None or frame.empty else meeting(frame, where)
