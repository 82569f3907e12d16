"""Many runs as one: seeds, or a grid of settings, side by side in one process and one directory, a lane for
each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from sharpcli.config.check import Checked, check, literal
from sharpcli.config.words import refuse_renamed, refusing
from sharpcli.engine.experiment import Experiment, build
from sharpcli.engine.train import Label
from sharpcli.errors import Refusal

FIXED = ("steps", "measure_every", "replicas")  # settings of the run, in which its replicas cannot differ


def labels(config: dict[str, Any]) -> list[Label]:
    """What tells the replicas apart: seeds from the run's own where `replicas` is a number, else every
    combination of a mapping from settings to lists (`seed` may be a number of seeds)."""
    wanted, seed = config["replicas"], config["seed"]
    if isinstance(wanted, int):
        return [{"seed": seed + i} for i in range(wanted)]
    grid = {
        key: list(range(seed, seed + values)) if isinstance(values, int) else values
        for key, values in wanted.items()
    }
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def experiments(checked: Checked) -> list[tuple[Label, Experiment]]:
    """Each replica's objects. Refuses what a single run would refuse, settings that the run does not have,
    and replicas of different sizes or times of measurement."""
    if checked.local["compile_step"] == "true":
        raise Refusal(
            f"compile_step=true: replicas={checked.config['replicas']} would compile each replica by itself; "
            f"leave compile_step out"
        )
    out: list[tuple[Label, Experiment]] = []
    checked_once: dict[
        str, Checked
    ] = {}  # by all but the seed: checking a config costs more than building it
    for label in labels(checked.config):
        settings = {key: value for key, value in label.items() if key != "seed"}
        if str(settings) not in checked_once:
            made = _with(checked, settings)
            if any(other.hash == made.hash for other in checked_once.values()):
                raise Refusal(
                    f"replicas={checked.config['replicas']}: {settings} decides no number, so that replicas "
                    f"would be equal; give settings such as lr, seed, optimizer.rho"
                )
            checked_once[str(settings)] = made
        config = checked_once[str(settings)]
        seed = label.get("seed", checked.config["seed"])
        experiment = build(replace(config, config=config.config | {"seed": seed}))
        first_label, first = out[0] if out else (label, experiment)
        size, size_of_first = len(experiment.problem.w0), len(first.problem.w0)
        if size != size_of_first:
            raise Refusal(f"replicas: with {label} there are {size} parameters, not {size_of_first}")
        if (experiment.steps, experiment.due) != (first.steps, first.due):
            raise Refusal(
                f"replicas: with {label} other steps are due than with {first_label}; count in steps, not "
                f"in epochs"
            )
        out.append((label, experiment))
    return out


def _with(checked: Checked, settings: Label) -> Checked:
    """The config of a replica: the run's own with these settings, and with what follows them."""
    config = OmegaConf.create(literal({**checked.config, **checked.local, "replicas": 1}))
    for key, interpolation in checked.follows.items():
        OmegaConf.update(config, key, interpolation)
    for key, value in settings.items():
        refuse_renamed(key, f"replicas.{key}")
        part, _, name = str(key).rpartition(".")
        with refusing([f"replicas.{key}"]):
            values = OmegaConf.select(config, part) if part else config
            known = OmegaConf.is_dict(values) and name in values
        if key in FIXED or not known:
            raise Refusal(
                f"replicas.{key}: no setting of this run that replicas may differ in; try lr, seed, "
                f"optimizer.rho"
            )
        if OmegaConf.is_dict(values) and OmegaConf.is_dict(values[name]):
            raise Refusal(
                f"replicas.{key}: a part, and replicas differ in values of settings, as lr or optimizer.rho; "
                f"a sweep makes a run of each: -m {key}=A,B"
            )
        with refusing([f"replicas.{key}={value}"]):
            OmegaConf.update(config, key, literal(value))
    try:
        return check(config)
    except Refusal as problem:
        raise Refusal(f"replicas, {settings}: {problem}") from None
