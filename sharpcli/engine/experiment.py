"""A checked config as objects: everything that the loop and `sharp measure` need, built and tried once."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.config.build import maker, part
from sharpcli.config.check import Checked
from sharpcli.config.settings import OF_PROBLEM
from sharpcli.config.targets import optional, positional, resolve
from sharpcli.data import Dataset
from sharpcli.data.convert import as_dataset
from sharpcli.due import Times, in_steps, times
from sharpcli.engine.memory import enough_memory, enough_to_build, keep_freed_memory
from sharpcli.errors import Refusal
from sharpcli.landscape import compiled_steps
from sharpcli.landscape.compiled_products import When
from sharpcli.landscape.differences import uniform_curvature
from sharpcli.landscape.distributed import ALONE, Processes
from sharpcli.landscape.half_precision import HalfPrecision
from sharpcli.landscape.second_derivatives import EXAMPLES, doubled
from sharpcli.landscape.surface import LossSurface, Penalty
from sharpcli.landscape.third_derivatives import check_penalty
from sharpcli.measures import Estimates, Point
from sharpcli.objectives import asks_for_time, changed, divides_examples, flow_strength, refuse_order
from sharpcli.optimizers import (
    Optimizer,
    State,
    flow_step,
    needs_exact_gradient,
    needs_full_batch,
    rules_inside,
    shaped,
    started,
)
from sharpcli.optimizers.parted import in_parts
from sharpcli.problems.minibatches import Minibatches, chunks
from sharpcli.problems.problem import Problem
from sharpcli.provenance import content_hash
from sharpcli.rng import generator
from sharpcli.schedules import Schedule

Measure = Callable[[Point], Estimates]
Objective = Callable[[LossSurface, Tensor, Any], LossSurface]


@dataclass(frozen=True)
class Experiment:
    """What a config means. `due` says at which steps each measure is due; `compile_toys`, that toys may run
    compiled; `population`, of how many examples the `measure_examples` are a part; `init` [D] is where
    training begins, None for a file of weights; `stop_loss`, the training loss at which it ends; `precision`,
    the half precision of training steps; `compile_step`, when they are compiled; `added_curvature`, c where
    the objectives add c I to the Hessian (weight decay), None where they add something else. `tried` names
    what this process has tried once, and need not try again; `points` numbers those that it measures."""

    seed: int
    lr: float
    steps: int
    chunk: int
    measure_examples: int | None
    basis_bytes: int
    problem: Problem
    minibatches: Minibatches
    optimizer: Optimizer
    objectives: dict[str, Objective]
    schedule: Schedule
    measures: dict[str, Measure]
    due: dict[str, Times]
    compile_toys: bool
    init: Tensor | None
    processes: Processes = ALONE
    population: int | None = None
    stop_loss: float | None = None
    precision: str | None = None
    compile_step: When = "false"
    added_curvature: float | None = 0.0
    tried: set[str] = field(default_factory=set, compare=False)
    points: Iterator[int] = field(default_factory=lambda: count(1), compare=False)

    @functools.cached_property
    def training_surface(self) -> LossSurface:
        """The surface that training steps descend on: all examples, in the precision of steps."""
        surface = self.problem.surface
        if compiled_steps.pays(self.compile_step, self.problem.w0.device, self.steps):
            surface = compiled_steps.CompiledSteps.of(surface, self.compile_step)
        return self._in_half(surface)

    @property
    def uncompiled_surface(self) -> LossSurface:
        """The `training_surface` without compiled steps."""
        return self._in_half(self.problem.surface)

    def _in_half(self, surface: LossSurface) -> LossSurface:
        return surface if self.precision is None else HalfPrecision.of(surface, self.precision)

    def surface_at(self, w: Tensor) -> LossSurface:
        """The surface that curvature is measured on at w: the first `measure_examples`, without
        augmentation."""
        whole = self.problem.at(w)
        x, y = self.problem.examples
        m = self.measure_examples
        return whole if m is None or m >= len(y) else whole.on(chunks((x[:m], y[:m]), self.chunk))

    def enough_memory(self) -> AbstractContextManager[None]:
        """Within it, memory that runs out is one line that says what to try."""
        return enough_memory(self.problem.surface, self.problem.w0.device, self.basis_bytes)

    def row_due(self, step: int) -> bool:
        """Whether there is a row at this step: a measure is due, or it is the last."""
        return step == self.steps or any(times.due(step) for times in self.due.values())

    @property
    def data_hash(self) -> str:
        """16 hex digits of the training examples, by which a run knows its data again."""
        return content_hash(self.problem.examples)

    @property
    def flow_strength(self) -> float | None:
        """The speed of the limiting flow of the run's noise; see `objectives.flow_strength`."""
        return flow_strength(self.objectives, self.minibatches.size_by_noise)

    @property
    def facts(self) -> dict[str, Any]:
        """What a run's provenance says of its problem."""
        problem = self.problem
        facts = {
            "dtype": str(problem.w0.dtype),
            "parameters": len(problem.w0),
            "examples": len(problem.examples[1]),
        }
        facts |= {"data": self.data_hash, "scores": dict(problem.better)}
        facts |= {
            "test_data": None if problem.tests is None else content_hash(problem.tests),
            "classes": problem.error is not None,
            "start": content_hash([problem.w0]),
            "held_values": content_hash(problem.held.values()),
        }
        return facts | ({"frozen": list(problem.frozen)} if problem.frozen else {})


def build(
    checked: Checked, processes: Processes = ALONE, weights: Mapping[str, Tensor] | None = None
) -> Experiment:
    """Builds every part and tries each once, so that a value out of range is refused before anything is
    written.

    `weights` are a state dict to be measured, in place of a start to be trained from."""
    keep_freed_memory()
    config, local = checked.config, checked.local
    trust, seed = local["trust"], config["seed"]
    if local["threads"]:
        torch.set_num_threads(local["threads"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with enough_to_build(config):
        problem = _problem(checked, {"processes": processes, "weights": weights})
    n = len(problem.examples[1])
    size = n if config["batch_size"] == "full" else min(config["batch_size"], n)
    batches = Minibatches(problem.examples, size, seed, config["replacement"], _layout(problem, config))
    steps = in_steps(config["steps"], batches.per_epoch)
    _check_smallest(problem, batches, steps, config)
    experiment = Experiment(
        seed=seed,
        lr=config["lr"],
        steps=steps,
        chunk=config["chunk"],
        measure_examples=config.get("measure_examples"),
        basis_bytes=int(config["basis_gb"] * 1e9),
        problem=problem,
        minibatches=batches,
        optimizer=shaped(part(config["optimizer"], trust, "optimizer"), problem.layout),
        objectives={
            key: part(value, trust, f"objective.{key}") for key, value in config["objective"].items()
        },
        schedule=Schedule(part(config["schedule"], trust, "schedule"), steps, config["lr"]),
        measures={key: part(value, trust, f"measure.{key}") for key, value in config["measure"].items()},
        due={
            key: times(value.get("every", config["measure_every"]), batches.per_epoch, steps)
            for key, value in config["measure"].items()
        },
        compile_toys=config["compile_toys"],
        init=problem.w0 if weights is None else None,
        processes=processes,
        population=n if config.get("measure_examples") else None,
        stop_loss=config.get("stop_loss"),
        precision=config.get("precision"),
        compile_step=local["compile_step"],
    )
    if experiment.precision is not None and problem.w0.dtype != torch.float32:
        raise Refusal(
            f"precision={experiment.precision}: for weights in float32, and those of this problem are in "
            f"{problem.w0.dtype}; leave precision out, or take problem=network problem.dtype=float32"
        )
    if experiment.precision is not None and needs_exact_gradient(experiment.optimizer):
        raise Refusal(
            f"precision={experiment.precision}: {type(experiment.optimizer).__name__} solves an equation "
            f"to a tolerance that half precision does not have; leave precision out"
        )
    if needs_full_batch(experiment.optimizer) and not batches.whole:
        name = type(experiment.optimizer).__name__
        raise Refusal(
            f"batch_size={config['batch_size']}: {name} is defined for the loss of all examples; use "
            f"batch_size=full"
        )
    if inner := _inside(experiment.optimizer):
        raise Refusal(
            f"optimizer: {inner} is inside of another rule, where its average is not measured; put it "
            f"around, as optimizer=averaging optimizer@optimizer.base=..."
        )
    experiment = replace(experiment, added_curvature=_rehearse(experiment))
    return _split(experiment, local["split_state"])


def _split(experiment: Experiment, when: str) -> Experiment:
    """The experiment with the optimizer's state in parts, one for each process, where that is asked for or
    worth a further sum of all weights at each step."""
    w0, group = experiment.problem.w0, experiment.processes
    if group.size == 1 or when == "false" or (when == "auto" and len(w0) < SPLIT_FROM):
        return experiment
    return replace(experiment, optimizer=in_parts(experiment.optimizer, len(w0), group))


def _inside(rule: Any) -> str:
    """The name of a rule that keeps an average inside of this one; empty without one."""
    inside = rules_inside(rule).values()
    here = [type(inner).__name__.lower() for inner in inside if hasattr(inner, "average")]
    return next(iter([*here, *filter(None, map(_inside, inside))]), "")


def _layout(problem: Problem, config: Mapping[str, Any]) -> torch.memory_format:
    """How the images of batches are laid out. On a graphics card it is half precision that gains by it."""
    pays = problem.w0.device.type == "cpu" or config.get("precision") is not None
    return torch.channels_last if problem.channels_last and pays else torch.contiguous_format


def _check_smallest(problem: Problem, batches: Minibatches, steps: int, config: Mapping[str, Any]) -> None:
    """Refuses sizes by which some batch has fewer examples than the problem needs, before a step reaches
    it."""
    if batches.smallest < problem.fewest and (steps >= batches.per_epoch or batches.batch_size == 1):
        raise Refusal(
            f"batch_size={config['batch_size']}: the last batch of an epoch has {batches.smallest} example, "
            f"and this model needs {problem.fewest} (batch norm); take another batch_size"
        )
    measured = min(config.get("measure_examples") or len(problem.examples[1]), len(problem.examples[1]))
    tests = 0 if problem.tests is None else len(problem.tests[1])
    for what, n in (("training", len(problem.examples[1])), ("measured", measured), ("test", tests)):
        if n and (n - 1) % config["chunk"] + 1 < problem.fewest:
            raise Refusal(
                f"chunk={config['chunk']}: the last of the {n} {what} examples would be evaluated by itself, "
                f"and this model needs {problem.fewest} at once (batch norm); take another chunk"
            )


def device(word: str) -> torch.device:
    """The device a word names; `auto` is CUDA on a machine that has it, else the CPU. Refuses a device that
    this machine does not have."""
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    has = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not has[word.split(":")[0]]:
        possible = ", ".join(name for name, is_here in has.items() if is_here)
        raise Refusal(f"device={word}: not on this machine; possible: {possible}")
    return torch.device(word)


def _problem(checked: Checked, supply: dict[str, Any]) -> Problem:
    """The problem, handed what it names of the lab's supplies and of the groups `OF_PROBLEM`."""
    config, local, trust = checked.config, checked.local, checked.local["trust"]
    supply |= {
        "seed": config["seed"],
        "device": device(local["device"]),
        "chunk": config["chunk"],
        "graph_budget": int(config["graph_gb"] * 1e9),
        "compile_products": local["compile_products"],
    }
    target = resolve(config["problem"]["_target_"], "problem", trust)
    takes, can_do_without = positional(target), optional(target)
    name = config["problem"]["_target_"].rsplit(".", 1)[-1]
    if supply["weights"] is not None and "weights" not in takes:
        raise Refusal(f"problem={name} takes no file of weights; use problem=network")
    for group in OF_PROBLEM:
        values = config.get(group)
        if values and group not in takes:
            raise Refusal(f"problem={name} takes no {group}: leave {group}= out, or use problem=network")
        if not values and group in takes and group not in can_do_without:
            raise Refusal(f"problem={name} needs {group}=...: {group} is missing")
        if group in takes:
            supply[group] = maker(values, trust, group) if values else None
    if supply.get("data") is not None:
        supply["data"] = _data(
            json.dumps(config["data"]), local["data_dir"], tuple(trust), checked.contents_key
        )
    problem = part(config["problem"], trust, "problem")(**supply)
    if not isinstance(problem, Problem):
        raise Refusal(
            f"problem={name}: gives a {type(problem).__name__}; give a sharpcli.problems.problem.Problem"
        )
    return problem


@functools.lru_cache(maxsize=1)  # the jobs of a sweep mostly share their data
def _data(values: str, folder: str, trust: tuple[str, ...], contents: str) -> Dataset:
    return as_dataset(maker(json.loads(values), trust, "data")(folder=Path(folder)))


def forget_data() -> None:
    """Loads data anew from here on: a command reads its files once, and the next command reads them again."""
    _data.cache_clear()


# weights from which the state of an optimizer is held in parts: 80 MB of Adam's in float32
SPLIT_FROM = 10**7
MOST_REHEARSED = 512  # examples of a batch with which objectives are tried before the first step


class _Reached(Exception):
    """A measure got as far as its surface or its problem: its own checks are behind it."""


class _Untouchable:
    def __getattr__(self, name: str) -> Any:
        raise _Reached

    def __call__(self, *_: Any) -> Any:
        raise _Reached


def _without_functions(thing: Any) -> Any:
    """The problem, or its closed forms, whose functions raise `_Reached`: what it supplies can be asked, at
    no cost."""

    def reached(*_: Any) -> Any:
        raise _Reached

    values = {f.name: getattr(thing, f.name) for f in fields(thing)}
    return replace(thing, **{name: reached for name, value in values.items() if callable(value)})


def _curvature(penalties: Sequence[tuple[Penalty, Tensor]]) -> float | None:
    """The `uniform_curvature` of the first of these penalties, at its weights, that can be evaluated."""
    for penalty, w in penalties:
        with contextlib.suppress(RuntimeError, TypeError):
            return uniform_curvature(penalty, w)
    return None


def _rehearse(experiment: Experiment) -> float | None:
    """Runs what each part checks of its own values, at no cost, and refuses a part that gives what it must
    not. Returns the `added_curvature` of the objectives."""
    added: list[float | None] = [0.0]
    refuse_order(experiment.objectives)
    w, rng = experiment.problem.w0, generator(0, "rehearsal", 0)
    # of the first step, of one in the middle and of the last
    steps = (0, experiment.steps // 2, max(experiment.steps - 1, 0))
    times = list(dict.fromkeys(flow_step(experiment.optimizer, experiment.schedule(step)) for step in steps))
    x, y = experiment.problem.examples
    sizes = {n if n <= MOST_REHEARSED else 2 for n in experiment.minibatches.sizes(experiment.steps)}
    for (name, objective), n in itertools.product(experiment.objectives.items(), sorted(sizes)):
        surface = experiment.uncompiled_surface.on([(x[:n], y[:n])])
        shown = changed(objective, surface, w, rng, times[0])
        for time in times[1:] if asks_for_time(objective) else ():
            changed(objective, surface, w, rng, time)
        if not isinstance(shown, LossSurface):
            raise Refusal(
                f"objective.{name}: gives a {type(shown).__name__}; give the surface with its change"
            )
        if shown.penalty is not None:
            few = experiment.uncompiled_surface.on([(x[: min(n, EXAMPLES)], y[: min(n, EXAMPLES)])])
            precise = None
            with contextlib.suppress(RuntimeError, TypeError):  # a model that works in a single precision
                rng_again = generator(0, "rehearsal", 0)
                precise = changed(objective, doubled(few), w.double(), rng_again, times[0]).penalty
            if precise is not None:
                check_penalty(precise, w.double(), name)
            if not divides_examples(objective) and n == max(sizes):
                of_w = [(precise, w.double())] if precise is not None else []
                added.append(_curvature([*of_w, (shown.penalty, w)]))
    untouchable: Any = _Untouchable()
    # what a rule asks of the gradient that the rule around it gives
    if experiment.init is not None and hasattr(experiment.optimizer, "step"):
        with contextlib.suppress(_Reached):
            experiment.optimizer.step(w, started(experiment.optimizer, w), untouchable, experiment.lr)
    problem = _without_functions(experiment.problem)
    flows = None if problem.flows is None else _without_functions(problem.flows)
    state: State | None = None if experiment.init is None else started(experiment.optimizer, w)
    point = Point(
        w=w,
        surface=untouchable,
        curvature=untouchable,
        rng=rng,
        warm=w[None],
        problem=replace(problem, surface=untouchable, flows=flows),
        lr=experiment.lr,
        optimizer=experiment.optimizer,
        state=state,
        init=experiment.init,
        constant_lr=experiment.schedule.is_constant,
        batch_size=experiment.minibatches.batch_size,
        flow_strength=experiment.flow_strength,
    )
    for measure in experiment.measures.values():
        with contextlib.suppress(_Reached):
            measure(point)
    known = [c for c in added if c is not None]
    return sum(known) if len(known) == len(added) else None


def with_start(experiment: Experiment, w: Tensor) -> Experiment:
    """The same experiment, begun at w."""
    return replace(experiment, init=w)
