"""`sharp.measure`: the measures of `sharp show measure`, on any model, loss and data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from torch import Tensor, nn

from sharpcli.api.arguments import number_of, real, size_in_bytes, whole
from sharpcli.api.problem import Loss, Own, Weight, own
from sharpcli.api.refused import python
from sharpcli.commands.report import table
from sharpcli.config.build import Part, part
from sharpcli.config.check import typed
from sharpcli.config.elsewhere import suggest
from sharpcli.config.folders import yaml_files
from sharpcli.config.plain_yaml import plain_yaml
from sharpcli.config.targets import hyperparameters, resolve
from sharpcli.engine.experiment import Experiment, Measure
from sharpcli.engine.measuring import Warm, each
from sharpcli.errors import Refusal
from sharpcli.jsonl import Row
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers.gd import GD
from sharpcli.problems.minibatches import Minibatches
from sharpcli.schedules import Schedule
from sharpcli.schedules.constant import constant

# the defaults of config/settings.py, so that both doors give the same numbers
CHUNK, GRAPH_GB, BASIS_GB = 5000, 2.0, 2.0

Measures = str | Sequence[str | Callable[[Point], Estimates]] | Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Measured:
    """What was measured, by column: `found["lambda_1"]`. `print(found)` shows a table of values, errors and
    costs; `dict(found)` are all columns.

    `row` are the columns as a run's row has them.
    """

    row: Row
    _vectors: dict[str, list[dict[str, Tensor]]] = field(repr=False)

    def __getitem__(self, column: str) -> Any:
        if column not in self.row:
            raise KeyError(f"{column}: not measured; there are {', '.join(self.row)}")
        return self.row[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)

    def keys(self) -> Iterator[str]:
        """The columns."""
        return iter(self.row)

    @python
    def error(self, column: str) -> float:
        """The stated error of a value: of an estimate its error, of a mean over samples the half width 2
        stderr of an interval that covers 95 %. Refuses columns without an error: exact ones, and costs."""
        self[column]
        for kind, times in (("error", 1), ("stderr", 2)):
            if f"{column}_{kind}" not in self.row:
                continue
            stated = self.row[f"{column}_{kind}"]
            if stated is None:
                raise Refusal(f"{column}: could not be estimated here, and has no error")
            return times * stated
        raise Refusal(f"{column}: has no error; sharp show measure says which columns are exact")

    @python
    def vectors(self, measure: str) -> list[dict[str, Tensor]]:
        """The directions that a measure found, in the order of their columns: the unit eigenvectors of
        lambda_1 ... lambda_k, and of lambda_min. Each is a dict of tensors, named and shaped as the
        parameters."""
        if measure not in self._vectors:
            with_vectors = ", ".join(self._vectors) or "none of what was measured"
            raise Refusal(f"{measure}: has no vectors; possible: {with_vectors}")
        return self._vectors[measure]

    def __str__(self) -> str:
        return "\n".join(table(self.row))


@python
def measure(
    model: nn.Module,
    loss: Loss,
    data: Any,
    measures: Measures = ("sharpness",),
    *,
    params: str | Sequence[str] | None = None,
    weight: Weight | None = None,
    eval_mode: bool = False,
    lr: float = 0.0,
    seed: int = 0,
    chunk: int = CHUNK,
    examples: int | None = None,
    graph_gb: float = GRAPH_GB,
    basis_gb: float = BASIS_GB,
    **settings: Any,
) -> Measured:
    """Measures the mean loss of a model on data, as a function of its trainable parameters:

        found = sharp.measure(model, loss, loader, ["sharpness", "trace"], k=5)
        found["lambda_1"], found.error("lambda_1"), found.vectors("sharpness"), print(found)

    `model` is any module, measured in the modes it is in, or in `eval_mode`, and left as it was.
    `loss(outputs, targets)` or `loss(model, batch)` is the mean over a batch. `data` is a pair of tensors, a
    `DataLoader`, a `Dataset` or an iterable of batches, read once and kept; `examples` takes the first of
    them. `measures` are names of `sharp show measure`, functions (Point) -> Estimates, or a mapping of names
    to settings; `settings` go to every measure that takes them (`k`, `tol`, `rtol`, ...). `params` are
    patterns of parameter names, `weight` what the loss averages over in a batch (see `api/problem.py`). `lr`
    is for measures of a step size. The other settings are those of `sharp measure`: `chunk` cuts pairs of
    tensors, graphs of up to `graph_gb` and a Krylov basis of up to `basis_gb` are kept.

    Raises `Refused` for what cannot be measured; exceptions of the model, the loss and the data pass as they
    are.
    """
    parts = built(measures, settings)
    mine = own(
        model,
        loss,
        data,
        params=params,
        weight=weight,
        chunk=chunk,
        examples=examples,
        graph_budget=size_in_bytes("graph_gb", graph_gb),
        eval_mode=eval_mode,
    )
    return measured(experiment_of(mine, parts, lr, seed, basis_gb), mine, mine.problem.w0)[0]


def measured(
    experiment: Experiment, mine: Own, w: Tensor, warm: Warm | None = None, step: int = 0
) -> tuple[Measured, Warm]:
    """All measures of an experiment at w, and what they leave for the next measurement."""
    row: Row = {}
    left = dict(warm or {})
    vectors: dict[str, list[dict[str, Tensor]]] = {}
    with mine.untouched():
        for taken in each(experiment, w, step, left, list(experiment.measures)):
            row |= taken.row
            left |= taken.warm
            named = [mine.named(v) for v in taken.vectors.values()]
            vectors |= {taken.name: named} if named else {}
    return Measured(row, vectors), left


def experiment_of(
    mine: Own, measures: dict[str, Measure], lr: float, seed: int, basis_gb: float
) -> Experiment:
    """A user's problem as what the engine measures: at a point that no run has reached."""
    seed, lr = whole("seed", seed, 0), real("lr", lr)
    tf32 = torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
    if tf32 and mine.problem.w0.is_cuda:
        raise Refusal(
            "TF32 is on, with which products have three correct digits; set "
            "torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False"
        )
    always: Any = Part(constant, {}, ("lr",))
    return Experiment(
        seed=seed,
        lr=lr,
        steps=0,
        chunk=CHUNK,
        measure_examples=None,
        basis_bytes=size_in_bytes("basis_gb", basis_gb),
        problem=mine.problem,
        minibatches=Minibatches(mine.problem.examples, max(1, len(mine.problem.examples[1])), seed),
        optimizer=GD(),
        objectives={},
        schedule=Schedule(always, 1, lr),
        measures=measures,
        due={},
        compile_toys=False,
        init=None,
        population=mine.population,
    )


def with_lr(experiment: Experiment, lr: float) -> Experiment:
    """The same experiment at another learning rate."""
    return replace(experiment, lr=lr, schedule=replace(experiment.schedule, lr=lr))


def built(measures: Measures, settings: Mapping[str, Any]) -> dict[str, Measure]:
    """Measures by name, each with the settings that it takes. Refuses a setting that none takes."""
    settings = {name: number_of(value) for name, value in settings.items()}
    names_of: Any = [measures] if isinstance(measures, str) else measures
    if not isinstance(names_of, Iterable):
        raise Refusal(f"measures={measures}: give a name, or a list of names")
    given = measures if isinstance(measures, Mapping) else {}
    for name, own_settings in given.items():
        if not isinstance(own_settings, Mapping):
            raise Refusal(f"measures: {name} has {own_settings!r}; give a mapping of its settings, or {{}}")
    parts: dict[str, Measure] = {}
    taken: set[str] = set()
    possible: list[str] = []
    for measure in names_of:
        if not isinstance(measure, str):
            name = getattr(measure, "__name__", type(measure).__name__)
            if not callable(measure) or name in parts or not name.isidentifier():
                raise Refusal(f"measures: {name}; give functions with names of their own, or names")
            parts[name] = measure
            continue
        for key, values in _defaults(measure).items():
            _, _, names = hyperparameters(resolve(values["_target_"], "measure", ()))
            possible += [name for name in names if name not in possible]
            values |= {name: settings[name] for name in settings if name in names}
            values |= {name: number_of(value) for name, value in given.get(measure, {}).items()}
            taken |= set(names)
            checked = typed(values, f"measure.{key}", (), "measure")
            for name, value in values.items():
                if isinstance(value, str) and not isinstance(checked[name], str):
                    raise Refusal(f"{name}={value!r}: a text; give {checked[name]!r}, without quotes")
            parts[key] = part(checked, (), f"measure.{key}")
    if extra := [name for name in settings if name not in taken]:
        raise Refusal(
            f"{extra[0]}={settings[extra[0]]}: none of these measures takes it; possible: "
            f"{', '.join(possible)}"
        )
    return parts


def _defaults(measure: str) -> dict[str, dict[str, Any]]:
    """The measures that a yaml of conf/measure states, each with its settings; interpolations as where
    nothing else is set. Refuses a name without a yaml."""
    files = yaml_files("measure")
    if measure not in files:
        raise Refusal(f"{measure}: " + suggest(measure, list(files)))
    stated = plain_yaml(files[measure].read_bytes())
    out: dict[str, dict[str, Any]] = {}
    for key, settings in stated.items():
        # what a run has and a measurement does not, such as ${batch_size}, is missing, and asked for
        known = {name: OmegaConf.create({name: value}) for name, value in settings.items() if name != "every"}
        out[key] = {}
        for name, config in known.items():
            with suppress(InterpolationResolutionError):
                out[key][name] = OmegaConf.to_container(config, resolve=True)[name]  # type: ignore[index]
    return out
