"""Many runs as one: seeds, or a grid of settings, side by side in one process and one directory, a row for each."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf

from sharpcli.advance import AT_ONCE, advance
from sharpcli.config import Checked, check
from sharpcli.errors import Refusal
from sharpcli.experiment import Experiment, build
from sharpcli.measure import Warm, restore
from sharpcli.optimizers import State
from sharpcli.run import Row, Run
from sharpcli.train import ROLLING, Position, begin, next_due, row_at

Label = dict[str, Any]


@dataclass
class Lanes:
    """Where all replicas are: a position each, None for one that has diverged, at one step."""

    step: int
    positions: list[Position | None]
    seconds: float
    started: float

    @property
    def elapsed(self) -> float:
        """Seconds spent by all processes."""
        return self.seconds + time.perf_counter() - self.started


def labels(config: dict[str, Any]) -> list[Label]:
    """What tells the replicas apart: seeds from the run's own where `replicas` is a number, else every combination of a
    mapping from settings to lists (`seed` may be a number of seeds)."""
    wanted, seed = config["replicas"], config["seed"]
    if isinstance(wanted, int):
        return [{"seed": seed + i} for i in range(wanted)]
    grid = {key: list(range(seed, seed + values)) if isinstance(values, int) else values for key, values in wanted.items()}
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def experiments(checked: Checked) -> list[tuple[Label, Experiment]]:
    """Each replica's objects. Refuses what a single run would refuse, and settings that are not there or of all replicas."""
    out: list[tuple[Label, Experiment]] = []
    checked_once: dict[str, Checked] = {}  # by all but the seed: checking a config costs more than building it
    for label in labels(checked.config):
        rest = {key: value for key, value in label.items() if key != "seed"}
        if str(rest) not in checked_once:
            checked_once[str(rest)] = _with(checked, rest)
        config = checked_once[str(rest)]
        one = build(replace(config, config=config.config | {"seed": label.get("seed", checked.config["seed"])}))
        if out and len(one.problem.w0) != len(out[0][1].problem.w0):
            raise Refusal(f"replicas: with {label} there are {len(one.problem.w0)} parameters, not {len(out[0][1].problem.w0)}")
        if out and (one.steps, one.when) != (out[0][1].steps, out[0][1].when):
            raise Refusal(f"replicas: with {label} other steps are due than with {out[0][0]}; count in steps, not in epochs")
        out.append((label, one))
    return out


def _with(checked: Checked, label: Label) -> Checked:
    config = OmegaConf.create({**checked.config, **checked.local, "replicas": 1})
    for key, value in label.items():
        if key in ("steps", "measure_every", "replicas") or OmegaConf.select(config, key) is None:
            raise Refusal(f"replicas.{key}: no setting of this run that replicas may differ in; try lr, seed, optimizer.rho")
        OmegaConf.update(config, key, value)
    return check(config)


def train(
    those: Sequence[tuple[Label, Experiment]],
    run: Run,
    lanes: Lanes,
    checkpoint_every: int,
    threads: int,
    tell: Callable[[int, Row | None], Any],
) -> None:
    """Trains all replicas from `lanes` to the last step; at every step at which something is due a row for each, written
    at once: {step, replica, what tells it apart, what was measured}. One that diverges says so in its rows from then on
    and is moved no more. Compiled steps of `threads` replicas run at the same time. Ctrl-C writes a checkpoint first."""
    first = those[0][1]
    ahead = [advance(experiment) for _, experiment in those]
    offset = began = run.offset
    kept, saved_at, rolling = _copy(lanes), time.perf_counter(), None
    try:
        with ThreadPoolExecutor(threads) as pool:
            while True:
                kept, began = _copy(lanes), offset
                due = lanes.step % checkpoint_every == 0 or lanes.step == first.steps
                if due or time.perf_counter() - saved_at > ROLLING:
                    save(run, lanes, offset)
                    if rolling is not None and rolling != lanes.step:
                        run.drop(rolling)
                    saved_at, rolling = time.perf_counter(), None if due else lanes.step
                rows = []
                for i, (label, experiment) in enumerate(those):
                    here = lanes.positions[i]
                    row: Row | None = {"diverged": True} if here is None else row_at(experiment, here)
                    if row is None:
                        continue
                    if here is not None and row.get("diverged"):
                        row["diverged_at"], lanes.positions[i] = here.step, None
                    about = {"step": lanes.step, "replica": i, **label}
                    rows.append({**about, **row, "step": lanes.step, "seconds": round(lanes.elapsed, 3)})
                if rows:
                    run.log_all(rows)
                    offset = run.offset
                tell(lanes.step, rows[0] if rows else None)
                if lanes.step == first.steps:
                    return
                tick = (lanes.step // checkpoint_every + 1) * checkpoint_every
                stop = min(first.steps, tick, next_due(first, lanes.step), lanes.step + AT_ONCE)
                jobs = [(here, move) for here, move in zip(lanes.positions, ahead, strict=True) if here is not None]
                for done in [pool.submit(_move, here, move, stop) for here, move in jobs]:
                    done.result()
                lanes.step = stop
    except KeyboardInterrupt:
        save(run, kept, began)
        raise


def _copy(lanes: Lanes) -> Lanes:
    """The lanes as they are: a step replaces tensors and never writes into them."""
    return replace(lanes, positions=[None if here is None else copy.copy(here) for here in lanes.positions])


def _move(here: Position, ahead: Any, stop: int) -> None:
    while here.step < stop and bool(torch.isfinite(here.w.sum())):
        here.w, here.state, here.step = ahead(here.w, here.state, here.step, stop)


def start(those: Sequence[tuple[Label, Experiment]]) -> Lanes:
    """All replicas at step 0."""
    return Lanes(0, [begin(experiment) for _, experiment in those], 0.0, time.perf_counter())


def save(run: Run, lanes: Lanes, offset: int) -> None:
    """A checkpoint of all replicas."""

    def one(here: Position | None) -> dict[str, Any] | None:
        return None if here is None else {"w": here.w, "state": list(here.state), "warm": here.warm}

    replicas = [one(here) for here in lanes.positions]
    run.save(lanes.step, {"step": lanes.step, "replicas": replicas, "offset": offset, "seconds": lanes.elapsed})


def resume(run: Run, those: Sequence[tuple[Label, Experiment]], complain: Callable[[str], Any]) -> Lanes | None:
    """The replicas of the newest readable checkpoint, the rows cut back to it."""
    for step in reversed(run.checkpoints()):
        try:
            saved = run.load(step)
            positions = [
                None if one is None else Position(step, *_restored(one, experiment))
                for one, (_, experiment) in zip(saved["replicas"], those, strict=True)
            ]
        except (ValueError, OSError, RuntimeError, KeyError) as problem:
            complain(f"{run.name}: {problem}; going back to the checkpoint before")
            run.drop(step)
            continue
        run.cut(saved["offset"])
        return Lanes(step, positions, saved["seconds"], time.perf_counter())
    run.cut(0)
    return None


def _restored(saved: dict[str, Any], experiment: Experiment) -> tuple[torch.Tensor, State, Warm]:
    w, warm, state = restore(saved, experiment)
    return w, state, warm
