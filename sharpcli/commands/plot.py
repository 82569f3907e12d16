"""`sharp plot`: the rows of runs as a frame, a plot's yaml as its settings, a figure as a file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from sharpcli.commands.report import complain
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.folders import options, yaml_files
from sharpcli.config.own_parts import trusted, values_of
from sharpcli.config.words import refusing, suggest, with_overrides
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of, meeting
from sharpcli.jsonl import replace, writing
from sharpcli.run import find_all

ENDINGS = (".png", ".pdf", ".svg")
TRUETYPE: Any = {
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}  # fonts that journals take, and text that is text


def draw(
    name: str,
    names: Sequence[str],
    overrides: Sequence[str],
    out: Path | None,
    runs_dir: Path,
    where: str | None = None,
) -> Path:
    """Draws a plot of the named runs into `out`, by default `<plot>.png` in the run's directory, or in the
    working directory for several; only of the rows that meet a condition `where`. Refuses a plot whose
    columns the runs lack, and a condition that no row meets."""
    is_own = name not in options("plot") and "." in name
    if name not in options("plot") and not is_own:
        raise Refusal(f"{name}: no such plot; " + suggest(name, options("plot")))
    trust = trusted(overrides)
    own = [o for o in overrides if not o.startswith(("runs_dir=", "trust="))]
    settings = OmegaConf.create(values_of(name, "plot", trust)) if is_own else _settings(name)
    with refusing(own):
        plain: Any = OmegaConf.to_container(with_overrides(settings, own), resolve=True)
    checked = typed(plain, f"plot {name}", trust)
    runs = find_all(names, runs_dir, complain)
    if not runs:
        raise Refusal("no runs to draw; sharp ls lists the runs")
    own_place = out is None
    short = name.rpartition(".")[2]
    out = out or (runs[0].path / f"{short}.png" if len(runs) == 1 else Path(f"{short}.png"))
    if out.suffix.lower() not in ENDINGS:
        raise Refusal(f"-o {out}: possible endings: {', '.join(ENDINGS)}")
    several = len(runs) > 1  # then a run that cannot be read is named and left out
    frame = frame_of(runs, complain if several else None)
    for note in frame.attrs["notes"]:
        complain(note)
    if frame.empty:
        raise Refusal(f"{', '.join(run.name for run in runs[:3])}: nothing logged to draw yet")
    if where is not None:
        frame = meeting(frame, where)
    figure = part(checked, trust, f"plot {name}")(frame)
    if not isinstance(figure, Figure):
        raise Refusal(f"plot {name}: gives a {type(figure).__name__}; give a matplotlib Figure")
    with writing(out):
        if out.parent != Path():
            out.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        with rc_context(TRUETYPE):
            figure.savefig(file, format=out.suffix[1:].lower())
        if own_place:  # a link in a run's directory would lead the figure elsewhere
            replace(out, file.getvalue())
        else:
            out.write_bytes(file.getvalue())
    return out


def _settings(name: str) -> DictConfig:
    settings = OmegaConf.load(yaml_files("plot")[name])
    assert isinstance(settings, DictConfig)
    return settings
