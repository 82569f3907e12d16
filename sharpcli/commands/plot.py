"""`sharp plot`: the rows of runs as a frame, a plot's yaml as its settings, a figure or a table as a file."""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf

from sharpcli.commands.measure import ENDINGS as WEIGHTS
from sharpcli.commands.measure import MAY_CHANGE
from sharpcli.commands.report import complain
from sharpcli.commands.tables import ENDINGS as TABLE_ENDINGS
from sharpcli.commands.tables import as_text
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.folders import options, yaml_files
from sharpcli.config.own_parts import trusted, values_of
from sharpcli.config.paths import is_file
from sharpcli.config.words import refusing, suggest, with_overrides
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of, frame_of_file, meeting
from sharpcli.jsonl import replace, writing
from sharpcli.plots.looks import LOOKS, TRUETYPE
from sharpcli.provenance import commit
from sharpcli.run import Run
from sharpcli.runs_dir import find_all

OF_MEASURING = (*MAY_CHANGE[1:], "model", "data", "problem", "loss")  # settings of what is computed
ENDINGS = (".png", ".pdf", ".svg")
COMMON = ("runs_dir", "trust", "style")  # settings of the command, which every plot has
DESCRIBED_IN = {  # the field of a file's own description, by its format
    "png": "Description",
    "pdf": "Subject",
    "svg": "Description",
}


def draw(
    name: str,
    names: Sequence[str],
    overrides: Sequence[str],
    out: Path | None,
    runs_dir: Path,
    where: str | None = None,
) -> str:
    """Draws a plot of the named runs, or of the rows in a `.jsonl` that `sharp measure -o` wrote, into `out`,
    by default `<plot>.png` in the run's directory, or in the working directory for several; only of the rows
    that meet a condition `where`. Returns what to print: the file's path, or without `out` a table itself.

    A file holds the command and the commit in its metadata. Refuses a plot whose columns the runs lack, and a
    condition that no row meets."""
    given = dict(o.split("=", 1) for o in overrides if o.startswith(tuple(f"{key}=" for key in COMMON)))
    own = [o for o in overrides if o.partition("=")[0] not in COMMON]
    computed = "rows" in raw(name)
    measuring = [o for o in own if computed and o.partition("=")[0].partition(".")[0] in OF_MEASURING]
    own = [o for o in own if o not in measuring]
    measuring += [o for o in overrides if computed and o.startswith("trust=")]
    look = given.get("style", "screen")
    if look not in LOOKS:
        raise Refusal(f"style={look}: " + suggest(look, list(LOOKS)))
    trust = trusted(overrides)
    checked = checked_plot(name, own, trust)
    rows = checked.pop("rows", None)
    compute = None if rows is None else part(rows, trust, f"plot {name}.rows")
    of_folder = compute is not None and "runs_dir" in compute.takes  # the verdicts, and not runs
    if not names and not of_folder:
        raise Refusal(f"no run given; sharp plot {name} RUN... [where CONDITION]; sharp ls lists the runs")
    runs, files = ([], []) if of_folder else _named(names, runs_dir, computed)
    if out is not None and out.suffix.lower() not in (*ENDINGS, *TABLE_ENDINGS):
        raise Refusal(f"-o {out}: possible endings: {', '.join((*ENDINGS, *TABLE_ENDINGS))}")
    if compute is None:
        frame = _rows(runs, files, checked)
    else:
        from sharpcli.commands.landscapes import Asked

        frame = compute(asked=Asked(runs, files, measuring), runs_dir=runs_dir)
    if where is not None:
        frame = meeting(frame, where)
    command = shlex.join(["sharp", "plot", name, *names, *(["where", where] if where else []), *overrides])
    looks: Any = TRUETYPE | LOOKS[look]
    with rc_context(looks):
        drawn = part(checked, trust, f"plot {name}")(frame)
        if isinstance(drawn, pd.DataFrame):
            return _keep_table(drawn, out)
        if not isinstance(drawn, Figure):
            raise Refusal(f"plot {name}: gives a {type(drawn).__name__}; give a matplotlib Figure")
        return _keep_figure(drawn, out, name.rpartition(".")[2], runs, command)


def checked_plot(name: str, overrides: Sequence[str], trust: Sequence[str]) -> dict[str, Any]:
    """The settings of a plot, a user's own by its dotted name, in their types."""
    is_own = name not in options("plot") and "." in name
    if name not in options("plot") and not is_own:
        raise Refusal(f"{name}: no such plot; " + suggest(name, options("plot")))
    settings = OmegaConf.create(values_of(name, "plot", trust)) if is_own else _settings(name)
    inner = list(settings.get("rows", []))  # points=51 says what rows.points=51 says
    known = [key for key in (*settings, *inner) if key not in ("rows", "_target_")]
    for o in overrides if inner else ():
        if (key := o.partition("=")[0]) not in known and not key.startswith("rows."):
            raise Refusal(f"{o}: plot {name} has no such setting; {suggest(key, known)}")
    overrides = [f"rows.{o}" if o.partition("=")[0] in inner else o for o in overrides]
    with refusing(overrides):
        plain: Any = OmegaConf.to_container(with_overrides(settings, overrides), resolve=True)
    rows = plain.pop("rows", None)
    return typed(plain, f"plot {name}", trust) | (
        {} if rows is None else {"rows": typed(rows, f"plot {name}", trust)}
    )


def raw(name: str) -> Mapping[str, Any]:
    """What conf/ says of a plot; nothing of a user's own."""
    return {} if name not in options("plot") else dict(_settings(name))


def _named(names: Sequence[str], runs_dir: Path, computed: bool) -> tuple[list[Run], list[Path]]:
    """The runs, and the files of rows (of weights, where the rows are computed), that words name."""
    endings = WEIGHTS if computed else (".jsonl",)
    files = [Path(name) for name in names if name.endswith(endings) and is_file(name)]
    words = [name for name in names if Path(name) not in files]
    runs = find_all(words, runs_dir, complain) if words else []
    if not runs and not files:
        raise Refusal("no runs to draw; sharp ls lists the runs")
    return runs, files


def _rows(runs: Sequence[Run], files: Sequence[Path], checked: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of runs and files, with those of single layers for a plot that takes a pattern `params`."""
    several = len(runs) + len(files) > 1  # then a run that cannot be read is named and left out
    frame = frame_of(runs, complain if several else None, of_layers="params" in checked)
    if files:
        attrs = frame.attrs
        frame = pd.concat([frame, *(frame_of_file(file) for file in files)], ignore_index=True)
        frame.attrs = attrs
    for note in frame.attrs["notes"]:
        complain(note)
    if frame.empty:
        named = [*(run.name for run in runs[:3]), *(str(file) for file in files[:3])]
        raise Refusal(f"{', '.join(named)}: nothing logged to draw yet")
    return frame


def _keep_figure(figure: Figure, out: Path | None, short: str, runs: Sequence[Run], command: str) -> str:
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise Refusal(f"-o {out}: {short} is a figure; possible endings: {', '.join(ENDINGS)}")
    own_place = out is None
    into = out or (runs[0].path / f"{short}.png" if len(runs) == 1 else Path(f"{short}.png"))
    form = into.suffix[1:].lower()
    about = f"{command} (sharp at commit {commit() or 'unknown'})"
    with writing(into):
        if into.parent != Path():
            into.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        _lay_out(figure)
        figure.savefig(file, format=form, metadata={DESCRIBED_IN[form]: about})
        if own_place:  # a link in a run's directory would lead the figure elsewhere
            replace(into, file.getvalue())
        else:
            into.write_bytes(file.getvalue())
    return str(into)


def _lay_out(figure: Figure) -> None:
    """Places what is in the figure; else `savefig` draws everything once more to find the places."""
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)  # "none" still counts as an engine, and draws twice


def _keep_table(table: pd.DataFrame, out: Path | None) -> str:
    if out is None:
        return as_text(table, ".txt")
    if out.suffix.lower() not in TABLE_ENDINGS:
        raise Refusal(f"-o {out}: a table; possible endings: {', '.join(TABLE_ENDINGS)}")
    with writing(out):
        if out.parent != Path():
            out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(as_text(table, out.suffix.lower()) + "\n", encoding="utf-8")
    return str(out)


def _settings(name: str) -> DictConfig:
    settings = OmegaConf.load(yaml_files("plot")[name])
    assert isinstance(settings, DictConfig)
    return settings
