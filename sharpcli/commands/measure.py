"""`sharp measure`: measures the checkpoints of a run, or a file of weights from elsewhere."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from sharpcli.commands.report import complain, layers, table
from sharpcli.config.check import Checked, check, stored
from sharpcli.config.paths import is_file
from sharpcli.config.quoting import quoted
from sharpcli.config.settings import LOCAL
from sharpcli.config.words import compose, refuse_renamed, refusing, with_overrides
from sharpcli.errors import Interrupted, Refusal, signals
from sharpcli.jsonl import Row, append, plain, replace, writing
from sharpcli.run import Run
from sharpcli.runs_dir import find_all

if TYPE_CHECKING:
    from torch import Tensor

    from sharpcli.engine.experiment import Experiment
    from sharpcli.landscape.distributed import Processes

ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
MAY_CHANGE = ("measure", "measure_examples", "chunk", "graph_gb", "basis_gb", *LOCAL)


@dataclass(frozen=True)
class Options:
    """How to measure and where to report it: `params`, a pattern of parameter names; `by` layer; `json`
    instead of a table; `out`, a file of JSON lines in place of a run's own; `vectors`, a file for the
    directions that were measured."""

    params: str = ""
    by: str = ""
    json: bool = False
    out: Path | None = None
    vectors: Path | None = None

    def flags(self, steps: str = "") -> list[str]:
        """What chose the points and parameters on the command line, for a row's provenance."""
        given = {"--step": steps, "--params": self.params, "--by": self.by}
        return [word for flag, value in given.items() if value for word in (flag, value)]


@dataclass(frozen=True)
class SavedPoint:
    """A checkpoint, or a file of weights: the step, w [D], each measure's warm vectors and the optimizer's
    state."""

    step: int
    w: Tensor
    warm: dict[str, Tensor]
    state: Any


@dataclass(frozen=True)
class Subject:
    """A run or a file to be measured: its `name`, the `experiment` it belongs to, its `points`, where its
    rows are kept, and their provenance."""

    name: str
    experiment: Experiment
    points: Iterator[SavedPoint]
    keep: Callable[[Row], None]
    source: dict[str, Any] = field(default_factory=dict)


def measure_all(
    names: Sequence[str], overrides: Sequence[str], steps: str, runs_dir: Path, options: Options
) -> None:
    """Measures every named run or file at the wanted steps. All overrides are checked against all runs before
    the first measurement."""
    if options.by not in ("", "layer"):
        raise Refusal(f"--by {options.by}: possible: layer")
    files = [Path(name) for name in names if is_file(name)]
    files += [Path(o.split("=", 1)[1]) for o in overrides if o.startswith("weights=")]
    overrides = [o for o in overrides if not o.startswith("weights=")]
    for file in [*files, *(Path(name) for name in names if Path(name).suffix in ENDINGS)]:
        if not is_file(file):
            raise Refusal(
                f"{file}: no such file of weights; name a file that torch.save or safetensors wrote"
            )
    runs = find_all([name for name in names if not is_file(name)], runs_dir)
    if files and runs:
        raise Refusal(f"{files[0]} and {runs[0].name}: measure files of weights and runs in two commands")
    if files and steps:
        raise Refusal(f"--step {steps}: a file of weights has no steps")
    for run in runs:
        run.refuse_altered()
    watched = [run for run in runs if run.is_watched]
    asked = [(run, checkpoints(run, steps)) for run in watched]
    runs = [run for run in runs if not run.is_watched]
    refused = _Refused(len(runs) + len(watched))
    checked = []
    for run in runs:
        with refused.of(run):
            config, at = checked_again(run, overrides), checkpoints(run, steps)
            run.refuse_altered(config.contents)
            checked.append((run, config, at))
    refused.where_alone()
    points = len(files) + sum(len(at) for _, at in asked) + sum(len(at) for _, _, at in checked)
    check_options(options, points)
    from sharpcli.engine.experiment import forget_data
    from sharpcli.landscape.distributed import processes

    forget_data()
    with processes() as group:
        for run, config, at in checked:
            command = ["sharp", "measure", run.name, *options.flags(steps), *overrides]
            with refused.of(run):
                measure_subject(of_run(run, config, at, command, group, options), options, group)
        for run, at in asked:
            command = ["sharp", "measure", run.name, *options.flags(steps), *overrides]
            with refused.of(run):
                for subject in of_watched(run, at, overrides, command, group, options):
                    measure_subject(subject, options, group)
        for file in files:
            measure_subject(of_file(file, overrides, group, options), options, group)
    refused.at_the_end()


class _Refused:
    """The runs that cannot be measured: of `total` runs each is named with the reason, and the others are
    measured all the same; a single run is refused at once."""

    def __init__(self, total: int) -> None:
        self.total, self.reasons = total, dict[str, Refusal]()

    @contextmanager
    def of(self, run: Run) -> Iterator[None]:
        """Within it a refusal is that of this run."""
        try:
            yield
        except Refusal as problem:
            if self.total == 1 or isinstance(problem, Interrupted):
                raise
            self.reasons[run.name] = problem

    def where_alone(self) -> None:
        """Refuses where all runs are refused, for the reason of the first."""
        if self.reasons and len(self.reasons) == self.total:
            raise next(iter(self.reasons.values()))

    def at_the_end(self) -> None:
        """Names each run that was refused, and refuses with their number."""
        for name, reason in self.reasons.items():
            complain(f"{'' if str(reason).startswith(name) else f'{name}: '}{reason}; left out")
        if self.reasons:
            raise Refusal(f"{len(self.reasons)} of {self.total} runs are not measured, for the reasons above")


def check_options(options: Options, points: int) -> None:
    """Fails before the first measurement where a file cannot be written, or holds fewer points."""
    if options.vectors is not None and (points > 1 or options.by):
        raise Refusal(
            f"--vectors {options.vectors}: holds the vectors of a single point, and these are {points}; name "
            f"a run, --step, and no --by"
        )
    if options.vectors is not None:
        if options.vectors.suffix != ".safetensors":
            raise Refusal(f"--vectors {options.vectors}: give a name that ends in .safetensors")
        is_new = not options.vectors.exists()
        with writing(options.vectors), open(options.vectors, "ab"):
            pass
        if is_new:  # it was only tried
            options.vectors.unlink()
    if options.out is not None:
        with writing(options.out), open(options.out, "ab"):
            pass


def of_run(
    run: Run, checked: Checked, at: Sequence[int], command: Sequence[str], group: Processes, options: Options
) -> Subject:
    """The checkpoints of a run; a damaged checkpoint is complained of and left out. Refuses replicas, and
    data that are not those of the run any more."""
    if run.provenance.get("replicas", 1) > 1:
        raise Refusal(
            f"{run.name} holds {run.provenance['replicas']} replicas: measure them in training, by "
            f"measure=[...]"
        )
    from sharpcli.engine.experiment import build
    from sharpcli.engine.launch import with_original_start
    from sharpcli.engine.measuring import restore
    from sharpcli.engine.same_run import changed_inputs
    from sharpcli.provenance import provenance

    experiment = with_original_start(build(checked, group), run)
    source = provenance(experiment.problem.w0.device, command)
    now = {**experiment.facts, **source}
    if changed := changed_inputs(run.provenance, now):
        raise Refusal(
            f"{run.name}: the {changed[0]} changed since this run was made, and its numbers would be of "
            f"something else; "
            "restore the file, or train a new run"
        )
    n = len(experiment.problem.examples[1])
    chunks = [min(of.get("chunk", n), n) for of in (run.config, checked.config)]
    if experiment.problem.surface.joint and chunks[0] != chunks[1]:
        raise Refusal(
            f"chunk={checked.config['chunk']}: {run.name} normalizes {chunks[0]} examples together (batch "
            f"norm), and another number is another loss; leave chunk out, and give graph_gb= for less memory"
        )
    source["measure"] = checked.config["measure"]
    if experiment.schedule.asks_for_loss:  # at the rows of other measures than these
        logged = {row["step"]: row["lr_now"] for row in run.logged() if "lr_now" in row}
        experiment.schedule.known |= {step: lr for step, lr in logged.items() if step < experiment.steps}

    def points() -> Iterator[SavedPoint]:
        for step in at:
            try:
                point = SavedPoint(step, *restore(run.load(step), experiment))
            except (ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
                complain(f"{run.name}: checkpoint {step} left out: {problem}")
                continue
            yield point

    def keep(row: Row) -> None:
        if options.out is None:
            run.add_measured(row)
        else:
            append(options.out, {"run": run.name, **row}, follow=True)

    return Subject(str(run.path), experiment, points(), keep, source)


def of_watched(
    run: Run,
    at: Sequence[int],
    overrides: Sequence[str],
    command: Sequence[str],
    group: Processes,
    options: Options,
) -> Iterator[Subject]:
    """The checkpoints of a run that `sharp.Watch` made, in a network that the overrides describe, as for a
    file of weights."""
    if not any(override.startswith(("model=", "model._target_=")) for override in overrides):
        raise Refusal(
            f"{run.name}: watched from Python, and its config cannot build its model; describe it as for a "
            f"file of weights: sharp measure {run.name} model=... data=..."
        )
    from sharpcli.engine.experiment import build
    from sharpcli.provenance import provenance

    checked = checked_file(overrides)
    for step in at:
        try:
            state = run.load(step)["state_dict"]
        except (ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
            complain(f"{run.name}: checkpoint {step} left out: {problem}")
            continue
        experiment = build(checked, group, state)
        source = provenance(experiment.problem.w0.device, command) | {"config": checked.config}

        def keep(row: Row) -> None:
            if options.out is None:
                run.add_measured(row)
            else:
                append(options.out, {"run": run.name, **row}, follow=True)

        yield Subject(
            str(run.path), experiment, iter([SavedPoint(step, experiment.problem.w0, {}, None)]), keep, source
        )


def checked_file(overrides: Sequence[str]) -> Checked:
    """The config of somebody's weights in the network that the overrides describe; batch norm as stored,
    unless the overrides say otherwise."""
    sets_batchnorm = any(o.startswith(("problem.batchnorm=", "problem=")) for o in overrides)
    as_stored = [] if sets_batchnorm else ["problem.batchnorm=stored"]
    return check(compose([*as_stored, *overrides]), overrides)


def of_file(file: Path, overrides: Sequence[str], group: Processes, options: Options) -> Subject:
    """Somebody's weights in a network that the overrides describe as for `sharp train`."""
    checked = checked_file(overrides)
    from sharpcli.commands import state_dict
    from sharpcli.engine.experiment import build
    from sharpcli.provenance import provenance

    experiment = build(checked, group, state_dict.read(file))
    source = provenance(
        experiment.problem.w0.device, ["sharp", "measure", str(file), *options.flags(), *overrides]
    )
    source |= {"file": str(file), "sha256": state_dict.content(file), "config": checked.config}
    if experiment.problem.frozen:
        source["frozen"] = list(experiment.problem.frozen)

    def keep(row: Row) -> None:
        if options.out is not None:
            append(options.out, {"file": str(file), **row}, follow=True)

    return Subject(
        str(file), experiment, iter([SavedPoint(0, experiment.problem.w0, {}, None)]), keep, source
    )


def measure_subject(subject: Subject, options: Options, group: Processes) -> None:
    """Measures, keeps each measure's row as soon as it is there, and prints a table (or JSON) for each
    point."""
    from sharpcli.commands.progress import measuring

    done = 0
    vectors: dict[str, Tensor] = {}

    def keep(row: Row) -> None:
        nonlocal done
        if group.first:
            subject.keep(row | {"provenance": subject.source})
        done += 1

    try:
        with signals.raised():
            for point in subject.points:
                rows = []
                for label, chosen in parts(subject.experiment.problem.names, options):
                    where = " ".join([subject.name, f"step {point.step}", *([label] if label else [])])
                    with measuring() if group.first else nullcontext() as tell:
                        row, taken = measure_part(subject.experiment, point, label, chosen, keep, tell, where)
                    rows.append(row)
                    vectors |= taken
                print_rows(subject.name, rows, options)
        if options.vectors is not None and group.first:
            write_vectors(vectors, options.vectors)
    except KeyboardInterrupt as interrupt:
        into = options.out or (Path(subject.name) / "measured.jsonl" if Path(subject.name).is_dir() else None)
        kept_in = (
            f"{done} measurements are in {into}" if into else "give -o FILE.jsonl to keep what is finished"
        )
        signum = signals.number_of(interrupt)
        raise Interrupted(f"{signals.how(signum)}; {kept_in}", signum) from None


def measure_part(
    experiment: Experiment,
    point: SavedPoint,
    label: str,
    chosen: list[str] | None,
    keep: Callable[[Row], None],
    tell: Any,
    where: str,
) -> tuple[Row, dict[str, Tensor]]:
    """The whole row of a point, of all parameters or of the `chosen` ones, each measure's part of which is
    kept at once; and its directions, a tensor for each parameter: `lambda_1/layer.weight`."""
    from sharpcli.engine.measuring import each, part_of

    w, warm, state = point.w, point.warm, point.state
    about: Row = {"step": point.step}
    if chosen is not None:  # warm vectors of the whole network are of no use to a part of it
        experiment, warm, state = part_of(experiment, w, chosen), {}, None
        w, about = experiment.problem.w0, {"step": point.step, "params": label}
    row = dict(about)
    vectors: dict[str, Tensor] = {}
    report = None if tell is None else lambda name, products, error: tell(f"{where}: {name}", products, error)
    for taken in each(experiment, w, point.step, warm, list(experiment.measures), state, report):
        keep(about | taken.row)
        row |= taken.row
        for column, v in taken.vectors.items():
            tensors = zip(experiment.problem.names, experiment.problem.tensors(v), strict=True)
            vectors |= {f"{column}/{name}": t for name, t in tensors}
    return row, vectors


def write_vectors(vectors: dict[str, Tensor], file: Path) -> None:
    """Writes directions to a file of safetensors. Refuses where there are none."""
    from safetensors.torch import save

    if not vectors:
        raise Refusal(
            f"--vectors {file}: nothing that was measured has vectors; measure sharpness or gauss_newton"
        )
    with writing(file):  # the library's own writing raises its own errors
        replace(file, save({name: t.detach().cpu().contiguous().clone() for name, t in vectors.items()}))


def print_rows(name: str, rows: Sequence[Row], options: Options) -> None:
    """What was measured at a point, on standard output."""
    if options.json:
        for row in rows:
            values = {"of": name, **{key: plain(value) for key, value in row.items()}}
            print(json.dumps(values, allow_nan=False), flush=True)
        return
    only = f"  {rows[0]['params']}" if "params" in rows[0] and not options.by else ""
    print(f"{name}  step {rows[0]['step']}{only}")
    print("\n".join(layers(rows) if options.by else table(rows[0])), flush=True)


def parts(names: Sequence[str], options: Options) -> list[tuple[str, list[str] | None]]:
    """What to measure: everything, the parameters of a pattern, or those of each layer (a name up to its last
    dot)."""
    if not options.params and not options.by:
        return [("", None)]
    chosen = [name for name in names if fnmatch.fnmatch(name, options.params or "*")]
    if not chosen:
        raise Refusal(
            f"--params {options.params}: no parameter is called so; there are {', '.join(names[:8])}, ..."
        )
    if not options.by:
        return [(options.params, chosen)]
    layer: dict[str, list[str]] = {}
    for name in chosen:
        layer.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return list(layer.items())


def checked_again(run: Run, overrides: Sequence[str]) -> Checked:
    """A run's own config with what measuring may change; code outside the package needs trust, given in this
    command."""
    with refusing(overrides):
        parsed = OverridesParser.create().parse_overrides(quoted(overrides))
    config = stored(run.config)
    for override in parsed:
        key = override.get_key_element().lstrip("+~")
        refuse_renamed(key, str(override.input_line), str(override.input_line).partition("=")[2])
        if key.split(".")[0] in MAY_CHANGE and override.is_sweep_override():
            value = str(override.input_line).partition("=")[2]
            raise Refusal(f"{override.input_line}: several values; write a list, as in {key}=[{value}]")
        if key.split(".")[0] not in MAY_CHANGE:
            raise Refusal(
                f"{override.input_line}: measuring cannot change that; possible: {', '.join(MAY_CHANGE)}"
            )
        if key == "measure":
            composed = compose([str(override.input_line)]).measure
            config.measure = OmegaConf.create(OmegaConf.to_container(composed, resolve=False))
    config = with_overrides(config, [o for o in overrides if not re.match(r"\+*measure=", o)])
    if not config.measure:
        raise Refusal(
            f"{run.name} measured nothing in training: say what to measure, as in measure=[sharpness,trace]"
        )
    return check(config, overrides)


def checkpoints(run: Run, steps: str) -> list[int]:
    """The checkpoints that `--step 400,800` names, all where it is empty."""
    saved = run.checkpoints()
    try:
        asked = [int(step) for step in steps.split(",")] if steps else saved
    except ValueError:
        raise Refusal(
            f"--step {steps}: give whole numbers with commas between, as in --step 400,800"
        ) from None
    if missing := [step for step in asked if step not in saved]:
        raise Refusal(
            f"--step {missing[0]}: {run.name} has checkpoints at {', '.join(map(str, saved)) or 'no step'}"
        )
    if not asked:
        raise Refusal(f"{run.name} has no checkpoint yet; run it first")
    return asked
