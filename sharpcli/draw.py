"""`sharp plot`: the rows of runs as a frame, a plot's yaml as its settings, a figure as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from sharpcli import CONF
from sharpcli.config import options, part, refusing, suggest, typed
from sharpcli.errors import Refusal
from sharpcli.run import Run, find_all, writing

ENDINGS = (".png", ".pdf", ".svg")


def draw(name: str, names: Sequence[str], words: Sequence[str], out: Path | None, runs_dir: Path) -> Path:
    """Draws a plot of the named runs into `out`, by default `<plot>.png` in the run's directory, or here for several."""
    if name not in options("plot"):
        raise Refusal(f"{name}: no such plot; " + suggest(name, options("plot")))
    words = [word for word in words if not word.startswith("runs_dir=")]
    with refusing(words):
        values = OmegaConf.merge(OmegaConf.load(CONF / "plot" / f"{name}.yaml"), OmegaConf.from_dotlist(list(words)))
        plain: Any = OmegaConf.to_container(values)
    checked = typed(plain, f"plot {name}", [])
    runs = find_all(names, runs_dir)
    if not runs:
        raise Refusal("no runs to draw; sharp ls lists the runs")
    out = out or (runs[0].path / f"{name}.png" if len(runs) == 1 else Path(f"{name}.png"))
    if out.suffix.lower() not in ENDINGS:
        raise Refusal(f"-o {out}: possible endings: {', '.join(ENDINGS)}")
    frame = frame_of(runs)
    if frame.empty or (name != "compare" and "train_loss" not in frame):
        raise Refusal(f"{', '.join(run.name for run in runs[:3])}: nothing logged to draw yet")
    for plot, column in (("sharpness", "lambda_1"), ("density", "density_nodes")):
        if name == plot and column not in frame:
            raise Refusal(f"{runs[0].name} has no {column}; sharp measure {runs[0].name} measure=[{plot}] adds it")
    if (x := checked.get("x", "step")) not in frame:
        raise Refusal(f"x={x}: no such column in these runs; possible: epoch, seconds, step")
    figure = part(checked, [], f"plot {name}")(frame)
    with writing(out):
        if out.parent != Path():
            out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    return out


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run and step: the logged and measured columns, and the run's settings by their dotted names."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        config = run.config
        settings = dict(dotted(config)) | {"run": run.name, "problem": config["problem"]["_target_"].rsplit(".", 1)[-1]}
        for row in run.rows():
            name = {"run": f"{run.name}#{row['replica']}"} if "replica" in row else {}
            rows.append(settings | row | name)
    return pd.DataFrame(rows)


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as pairs (`optimizer.rho`, 0.05); lists as words."""
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += dotted(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", str(value) if isinstance(value, list) else value))
    return out
