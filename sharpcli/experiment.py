"""A checked config as objects: everything that the loop and `sharp measure` need, built and tried once."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.config import Checked, Part, optional, part, positional, resolve
from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.memory import keep_freed_memory
from sharpcli.optimizers import Optimizer
from sharpcli.problem import Minibatches, Problem, chunks
from sharpcli.ranks import ALONE, Ranks
from sharpcli.rng import generator
from sharpcli.surface import LossSurface
from sharpcli.times import Times, in_steps, times

Measure = Callable[[Point], Estimates]


@dataclass(frozen=True)
class Schedule:
    """The learning rate at a step of a run of `steps` steps: a shape around `lr`."""

    shape: Part
    steps: int
    lr: float

    def __call__(self, step: int) -> float:
        """lr(step)."""
        return self.shape(step=step, steps=self.steps, lr=self.lr)


@dataclass(frozen=True)
class Experiment:
    """What a config means. `when` says at which steps each measure is due; `compiled`, that toys may run compiled."""

    seed: int
    lr: float
    steps: int
    chunk: int
    measure_examples: int | None
    basis_bytes: int
    problem: Problem
    minibatches: Minibatches
    optimizer: Optimizer
    objectives: dict[str, Part]
    schedule: Schedule
    measures: dict[str, Measure]
    when: dict[str, Times]
    compiled: bool
    init: Tensor | None  # where training begins; None for a file of weights
    ranks: Ranks = ALONE

    def surface_at(self, w: Tensor) -> LossSurface:
        """The surface that curvature is measured on at w: the first `measure_examples`, without augmentation."""
        here = self.problem.at(w)
        x, y = self.problem.examples
        m = self.measure_examples
        return here if m is None or m >= len(y) else here.on(chunks((x[:m], y[:m]), self.chunk))


def build(checked: Checked, ranks: Ranks = ALONE, weights: Mapping[str, Tensor] | None = None) -> Experiment:
    """Builds every part and tries each once, so that a value out of range is refused before anything is written.

    `weights` are a state dict to be measured, in place of a start to be trained from."""
    keep_freed_memory()
    config, local = checked.config, checked.local
    trust, seed = local["trust"], config["seed"]
    place = device(local["device"])
    if local["threads"]:
        torch.set_num_threads(local["threads"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    problem = _problem(config, place, local, trust, {"ranks": ranks, "weights": weights})
    n = len(problem.examples[1])
    size = n if config["batch_size"] == "full" else min(config["batch_size"], n)
    batches = Minibatches(problem.examples, size, seed, config["replacement"])
    steps = in_steps(config["steps"], batches.per_epoch)
    schedule = Schedule(part(config["schedule"], trust, "schedule"), steps, config["lr"])
    experiment = Experiment(
        seed,
        config["lr"],
        steps,
        config["chunk"],
        config.get("measure_examples"),
        int(config["basis_gb"] * 1e9),
        problem,
        batches,
        part(config["optimizer"], trust, "optimizer"),
        {key: part(value, trust, f"objective.{key}") for key, value in config["objective"].items()},
        schedule,
        {key: part(value, trust, f"measure.{key}") for key, value in config["measure"].items()},
        {
            key: times(value.get("every", config["measure_every"]), batches.per_epoch, steps)
            for key, value in config["measure"].items()
        },
        config["compiled"],
        problem.w0 if weights is None else None,
        ranks,
    )
    _rehearse(experiment)
    return experiment


def device(word: str) -> torch.device:
    """The device a word names; `auto` is CUDA where there is one, else the CPU. Refuses one that is not there."""
    if word == "auto":
        word = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[word.split(":")[0]]:
        raise Refusal(
            f"device={word}: not on this machine; possible: {', '.join(name for name, is_there in there.items() if is_there)}"
        )
    return torch.device(word)


def _problem(
    config: Mapping[str, Any], place: torch.device, local: Mapping[str, Any], trust: list[str], more: Mapping[str, Any]
) -> Problem:
    supply: dict[str, Any] = {
        **more,
        "seed": config["seed"],
        "device": place,
        "chunk": config["chunk"],
        "graph_budget": int(config["graph_gb"] * 1e9),
        "compile": local["compile"],
    }
    target = config["problem"]["_target_"]
    takes, free = (which(resolve(target, "problem", trust)) for which in (positional, optional))
    name = target.rsplit(".", 1)[-1]
    if more["weights"] is not None and "weights" not in takes:
        raise Refusal(f"problem={name} takes no file of weights; use problem=network")
    for kind in ("data", "model", "loss"):
        if config.get(kind) and kind not in takes:
            raise Refusal(f"problem={name} takes no {kind}: leave {kind}= out, or use problem=network")
        if not config.get(kind) and kind in takes and kind not in free:
            raise Refusal(f"problem={name} needs {kind}=...: {kind} is missing")
    if "data" in takes:
        supply["data"] = None if not config.get("data") else _data(json.dumps(config["data"]), local["data_dir"], tuple(trust))
    for kind in {"model", "loss"} & set(takes):
        supply[kind] = part(config[kind], trust, kind)
    return part(config["problem"], trust, "problem")(**supply)


@functools.lru_cache(maxsize=1)  # the jobs of a sweep mostly share their data
def _data(values: str, folder: str, trust: tuple[str, ...]) -> Dataset:
    return part(json.loads(values), trust, "data")(folder=Path(folder))


class _Reached(Exception):
    """A measure got as far as its surface or its problem: its own checks are behind it."""


class _Untouchable:
    def __getattr__(self, name: str) -> Any:
        raise _Reached


def _rehearse(experiment: Experiment) -> None:
    """Runs what each part checks of its own values, at no cost."""
    w, rng = experiment.problem.w0, generator(0, "rehearsal", 0)
    experiment.schedule(0)
    x, y = experiment.problem.examples
    for objective in experiment.objectives.values():
        objective(experiment.problem.surface.on([(x[:2], y[:2])]), w, rng)
    nothing: Any = _Untouchable()
    state = None if experiment.init is None else experiment.optimizer.init(w)
    about = (experiment.lr, experiment.optimizer, state, experiment.init)
    for measure in experiment.measures.values():
        with contextlib.suppress(_Reached):
            measure(Point(w, nothing, nothing, rng, w[None], nothing, *about))
