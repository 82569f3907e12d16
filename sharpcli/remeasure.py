"""`sharp measure`: checkpoints of runs, or anybody's file of weights, measured at a point."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sharpcli.config import LOCAL, Checked, check, compose, refusing
from sharpcli.errors import Refusal
from sharpcli.launch import complain
from sharpcli.report import layers, table
from sharpcli.run import Row, Run, append, find_all, plain, writing

if TYPE_CHECKING:
    from torch import Tensor

    from sharpcli.experiment import Experiment
    from sharpcli.ranks import Ranks

ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
MAY_CHANGE = ("measure", "measure_examples", "chunk", "graph_gb", "basis_gb", *LOCAL)


@dataclass(frozen=True)
class Wanted:
    """How to measure and where to say it: `params`, a pattern of parameter names; `by` layer; `json` instead of a table;
    `out`, a file of JSON lines in place of a run's own."""

    params: str = ""
    by: str = ""
    json: bool = False
    out: Path | None = None


@dataclass(frozen=True)
class Subject:
    """A thing to be measured: its `name`, the `experiment` it belongs to, `points` (step, w, warm, state), and where its
    rows go."""

    name: str
    experiment: Experiment
    points: Iterator[tuple[int, Tensor, dict[str, Tensor], Any]]
    keep: Callable[[Row], None]
    source: dict[str, Any] = field(default_factory=dict)


def remeasure(names: Sequence[str], words: Sequence[str], steps: str, runs_dir: Path, how: Wanted) -> None:
    """Measures every named run or file at the wanted points; words that fit no run are refused before the first."""
    if how.by not in ("", "layer"):
        raise Refusal(f"--by {how.by}: possible: layer")
    files = [Path(name) for name in names if Path(name).is_file()]
    files += [Path(word.split("=", 1)[1]) for word in words if word.startswith("weights=")]
    words = [word for word in words if not word.startswith("weights=")]
    for file in [*files, *(Path(name) for name in names if Path(name).suffix in ENDINGS)]:
        if not file.is_file():
            raise Refusal(f"{file}: no such file of weights; name one that torch.save or safetensors wrote")
    runs = find_all([name for name in names if not Path(name).is_file()], runs_dir)
    if files and runs:
        raise Refusal(f"{files[0]} and {runs[0].name}: measure files of weights and runs one after the other")
    if files and steps:
        raise Refusal(f"--step {steps}: a file of weights has no steps")
    checked = [(run, checked_again(run, words), wanted(run, steps)) for run in runs]
    if how.out is not None:
        with writing(how.out), open(how.out, "ab"):  # before anything is computed
            pass
    from sharpcli.ranks import ranks

    with ranks() as here:
        for run, config, at in checked:
            measure_subject(of_run(run, config, at, steps, words, here, how), how, here)
        for file in files:
            measure_subject(of_file(file, words, here, how), how, here)


def of_run(
    run: Run, checked: Checked, at: Sequence[int], steps: str, words: Sequence[str], here: Ranks, how: Wanted
) -> Subject:
    """The checkpoints of a run; a damaged one is complained of and left out. Refuses replicas."""
    if run.provenance.get("replicas", 1) > 1:
        raise Refusal(f"{run.name} holds {run.provenance['replicas']} replicas: measure them in training, by measure=[...]")
    from sharpcli.experiment import build
    from sharpcli.measure import begun, restore
    from sharpcli.provenance import provenance

    experiment = begun(build(checked, here), run)
    command = ["sharp", "measure", run.name, *(["--step", steps] if steps else []), *words]
    source = provenance(experiment.problem.w0.device, command) | {"measure": checked.config["measure"]}

    def points() -> Iterator[tuple[int, Tensor, dict[str, Tensor], Any]]:
        for step in at:
            try:
                saved = run.load(step)
            except (ValueError, OSError, RuntimeError) as problem:
                complain(f"{run.name}: checkpoint {step} left out: {problem}")
                continue
            yield step, *restore(saved, experiment)

    def keep(row: Row) -> None:
        (run.add_measured if how.out is None else lambda row: append(how.out or Path(), {"run": run.name, **row}))(row)

    return Subject(str(run.path), experiment, points(), keep, source)


def of_file(file: Path, words: Sequence[str], here: Ranks, how: Wanted) -> Subject:
    """Somebody's weights in a network that the words describe as for `sharp train`; batch norm as stored unless told."""
    told = any(word.startswith(("problem.batchnorm=", "problem=")) for word in words)
    own = [] if told else ["problem.batchnorm=stored"]
    checked = check(compose([*own, *words]), words)
    from sharpcli import weights
    from sharpcli.experiment import build
    from sharpcli.provenance import provenance

    experiment = build(checked, here, weights.read(file))
    about = {"file": str(file), "sha256": weights.content(file)}
    source = provenance(experiment.problem.w0.device, ["sharp", "measure", str(file), *words]) | about
    source["config"] = checked.config

    def keep(row: Row) -> None:
        if how.out is not None:
            append(how.out, {"file": str(file), **row})

    return Subject(str(file), experiment, iter([(0, experiment.problem.w0, {}, None)]), keep, source)


def measure_subject(subject: Subject, how: Wanted, here: Ranks) -> None:
    """Measures, keeps each measure's row as soon as it is there, and prints a table (or JSON) for each point."""
    from sharpcli.progress import measuring

    done = 0

    def keep(row: Row) -> None:
        nonlocal done
        if here.first:
            subject.keep(row | {"provenance": subject.source})
        done += 1

    try:
        for step, w, warm, state in subject.points:
            rows = []
            for label, chosen in parts(subject.experiment.problem.names, how):
                where = " ".join([subject.name, f"step {step}", *([label] if label else [])])
                with measuring() if here.first else nullcontext() as tell:
                    rows.append(measure_part(subject.experiment, (step, w, warm, state), label, chosen, keep, tell, where))
            say(subject.name, rows, how)
    except KeyboardInterrupt:
        into = how.out or (Path(subject.name) / "measured.jsonl" if Path(subject.name).is_dir() else None)
        kept_in = f"{done} measurements are in {into}" if into else "give -o FILE.jsonl to keep what is finished"
        raise Refusal(f"interrupted; {kept_in}") from None


def measure_part(
    experiment: Experiment,
    point: tuple[int, Tensor, dict[str, Tensor], Any],
    label: str,
    chosen: list[str] | None,
    keep: Callable[[Row], None],
    tell: Any,
    where: str,
) -> Row:
    """The whole row of one point, of all parameters or of the `chosen` ones; each measure's part of it is kept at once."""
    from sharpcli.measure import each, part_of

    step, w, warm, state = point
    row: Row = {"step": step}
    if chosen is not None:  # what was left of the whole network is of no use to a part of it
        experiment, warm, state = part_of(experiment, w, chosen), {}, None
        w, row = experiment.problem.w0, {"step": step, "params": label}
    about = dict(row)
    says = None if tell is None else lambda name, products, error: tell(f"{where}: {name}", products, error)
    for _, found, _ in each(experiment, w, step, warm, list(experiment.measures), state, says):
        keep(about | found)
        row |= found
    return row


def say(name: str, rows: Sequence[Row], how: Wanted) -> None:
    """What was measured at one point, on standard output."""
    if how.json:
        for row in rows:
            print(json.dumps({"of": name, **{key: plain(value) for key, value in row.items()}}, allow_nan=False), flush=True)
        return
    print(f"{name}  step {rows[0]['step']}" + (f"  {rows[0]['params']}" if "params" in rows[0] and not how.by else ""))
    print("\n".join(layers(rows) if how.by else table(rows[0])), flush=True)


def parts(names: Sequence[str], how: Wanted) -> list[tuple[str, list[str] | None]]:
    """What to measure: everything, the parameters of a pattern, or those of each layer (a name up to its last dot)."""
    if not how.params and not how.by:
        return [("", None)]
    chosen = [name for name in names if fnmatch.fnmatch(name, how.params or "*")]
    if not chosen:
        raise Refusal(f"--params {how.params}: no parameter is called so; there are {', '.join(names[:8])}, ...")
    if not how.by:
        return [(how.params, chosen)]
    layer: dict[str, list[str]] = {}
    for name in chosen:
        layer.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return list(layer.items())


def checked_again(run: Run, words: Sequence[str]) -> Checked:
    """A run's own config with what measuring may change; code outside the package needs trust, said here and now."""
    with refusing(words):
        parsed = OverridesParser.create().parse_overrides(list(words))
    config = OmegaConf.create(run.config)
    for word in parsed:
        key = word.get_key_element().lstrip("+~")
        if key.split(".")[0] not in MAY_CHANGE or word.is_sweep_override():
            raise Refusal(f"{word.input_line}: measuring cannot change that; possible: {', '.join(MAY_CHANGE)}")
        if key == "measure":
            config.measure = OmegaConf.create(OmegaConf.to_container(compose([str(word.input_line)]).measure, resolve=False))
    for word in parsed:
        if (key := word.get_key_element().lstrip("+~")) != "measure":
            OmegaConf.update(config, key, word.value(), force_add=True)
    if not config.measure:
        raise Refusal(f"{run.name} measured nothing in training: say what to measure, as in measure=[sharpness,trace]")
    return check(config, words)


def wanted(run: Run, steps: str) -> list[int]:
    """The checkpoints that `--step 400,800` means, all where it is empty."""
    there = run.checkpoints()
    try:
        asked = [int(step) for step in steps.split(",")] if steps else there
    except ValueError:
        raise Refusal(f"--step {steps}: give whole numbers with commas between, as in --step 400,800") from None
    if missing := [step for step in asked if step not in there]:
        raise Refusal(f"--step {missing[0]}: {run.name} has checkpoints at {', '.join(map(str, there)) or 'no step'}")
    if not asked:
        raise Refusal(f"{run.name} has no checkpoint yet; run it first")
    return asked
