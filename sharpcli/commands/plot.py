"""`sharp plot`: the rows of runs as a frame, a plot's yaml as its settings, a figure as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from omegaconf import OmegaConf

from sharpcli import CONF
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.words import options, refusing, suggest
from sharpcli.errors import Refusal
from sharpcli.jsonl import writing
from sharpcli.run import find_all, frame_of

ENDINGS = (".png", ".pdf", ".svg")


def draw(name: str, names: Sequence[str], overrides: Sequence[str], out: Path | None, runs_dir: Path) -> Path:
    """Draws a plot of the named runs into `out`, by default `<plot>.png` in the run's directory, or in the
    working directory for several. Refuses a plot whose columns the runs lack."""
    if name not in options("plot"):
        raise Refusal(f"{name}: no such plot; " + suggest(name, options("plot")))
    trust, overrides = _trust(overrides)
    with refusing(overrides):
        values = OmegaConf.merge(
            OmegaConf.load(CONF / "plot" / f"{name}.yaml"), OmegaConf.from_dotlist(overrides)
        )
        plain: Any = OmegaConf.to_container(values)
    checked = typed(plain, f"plot {name}", trust)
    runs = find_all(names, runs_dir)
    if not runs:
        raise Refusal("no runs to draw; sharp ls lists the runs")
    out = out or (runs[0].path / f"{name}.png" if len(runs) == 1 else Path(f"{name}.png"))
    if out.suffix.lower() not in ENDINGS:
        raise Refusal(f"-o {out}: possible endings: {', '.join(ENDINGS)}")
    frame = frame_of(runs)
    if frame.empty:
        raise Refusal(f"{', '.join(run.name for run in runs[:3])}: nothing logged to draw yet")
    figure = part(checked, trust, f"plot {name}")(frame)
    if not isinstance(figure, Figure):
        raise Refusal(f"plot {name}: gives a {type(figure).__name__}; give a matplotlib Figure")
    with writing(out):
        if out.parent != Path():
            out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out)
    return out


def _trust(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """The packages that `trust=[...]` names, and the other overrides without runs_dir."""
    trust = [
        name for o in overrides if o.startswith("trust=") for name in o[6:].strip("[]").split(",") if name
    ]
    return trust, [o for o in overrides if not o.startswith(("runs_dir=", "trust="))]
