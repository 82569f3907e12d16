"""The one training loop: checkpoint, measure, step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sharpcli.advance import advance
from sharpcli.experiment import Experiment
from sharpcli.measure import Warm, measure, restore
from sharpcli.optimizers import State
from sharpcli.run import Row, Run
from sharpcli.times import Times

NEVER = Times()
LARGEST = 3.4e38  # of a training loss: beyond float32's numbers it has diverged, and no plot has a scale for it
ROLLING = 60.0  # seconds after which a crash should not cost more than this; such a checkpoint gives way to the next


@dataclass
class Position:
    """Where a run is: all that resuming needs."""

    step: int
    w: Tensor
    state: State
    warm: Warm
    seconds: float = 0.0  # of earlier processes
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run by all processes."""
        return self.seconds + time.perf_counter() - self.started


def train(
    experiment: Experiment,
    run: Run,
    position: Position,
    checkpoint_every: int,
    tell: Callable[[int, Row | None], Any] = lambda step, row: None,
) -> Row:
    """Trains from `position` to the last step and returns the last row logged.

    At a step: a checkpoint where one is due (with the warm vectors as they are *before* measuring, so that measuring
    it again gives the same numbers), the measures that are due, a row, then the update; where steps are compiled, all up to
    the next at which something is due. The last step is measured and
    kept always. Weights or a training loss that are not finite end the run as diverged, which is a result. On Ctrl-C the
    position at which the step began is written first, so that resuming measures that step again and logs it once.
    """
    here, last = position, experiment.steps
    saved_at, rolling = time.perf_counter(), None
    ahead = advance(experiment)
    offset = began_offset = run.offset
    began = copy(here)
    try:
        while True:
            began, began_offset = copy(here), offset
            due = here.step % checkpoint_every == 0 or here.step == last
            if due or time.perf_counter() - saved_at > ROLLING:
                save(run, here, offset)
                if rolling is not None and rolling != here.step:
                    run.drop(rolling)
                saved_at, rolling = time.perf_counter(), None if due else here.step
            row = row_at(experiment, here)
            if row is not None:
                run.log(row)
                offset = run.offset
            tell(here.step, row)
            if row is not None and (row.get("diverged") or here.step == last):
                return row
            stop = min(last, (here.step // checkpoint_every + 1) * checkpoint_every, next_due(experiment, here.step))
            here.w, here.state, here.step = ahead(here.w, here.state, here.step, stop)
    except KeyboardInterrupt:
        save(run, began, began_offset)
        raise


def next_due(experiment: Experiment, step: int) -> int:
    """The next step at which a measure is due, the last one at the latest."""
    return min([experiment.steps, *(at for when in experiment.when.values() if (at := when.after(step)) is not None)])


def row_at(experiment: Experiment, here: Position) -> Row | None:
    """The row of this step, or None where nothing is due."""
    at = here.step
    names = [name for name, when in experiment.when.items() if when.due(at) or (at == experiment.steps and when != NEVER)]
    finite = math.isfinite(here.w.sum())
    if not names and finite and here.step != experiment.steps:
        return None
    lr = experiment.schedule(min(here.step, max(experiment.steps - 1, 0)))
    row: Row = {"step": here.step, "epoch": round(here.step / experiment.minibatches.per_epoch, 6), "lr": lr}
    if (edge := experiment.optimizer.edge(lr) if lr > 0 else None) is not None:
        row["edge"] = edge
    if finite:
        found, here.warm = measure(experiment, here.w, here.step, here.warm, names, here.state)
        row |= found
        finite = abs(row.get("train_loss", 0.0)) < LARGEST
    if not finite:
        row["diverged"] = True
    return row | {"seconds": round(here.elapsed, 3)}


def save(run: Run, here: Position, offset: int) -> None:
    """Writes a checkpoint of a position; `offset` bytes of metrics.jsonl are what was logged before it."""
    run.save(
        here.step,
        {
            "step": here.step,
            "w": here.w.cpu(),
            "state": [part.cpu() for part in here.state],
            "warm": {name: vectors.cpu() for name, vectors in here.warm.items()},
            "offset": offset,
            "seconds": here.elapsed,
        },
    )


def resume(run: Run, experiment: Experiment, complain: Callable[[str], Any]) -> Position | None:
    """The position of the newest readable checkpoint, its rows cut back to it; None where there is no checkpoint.

    A damaged checkpoint is complained of, removed, and the one before is used.
    """
    for step in reversed(run.checkpoints()):
        try:
            saved = run.load(step)
            w, warm, state = restore(saved, experiment)
        except (ValueError, OSError, RuntimeError, KeyError) as problem:
            complain(f"{run.name}: {problem}; going back to the checkpoint before")
            run.drop(step)
            continue
        run.cut(saved["offset"])
        return Position(step, w, state, warm, saved["seconds"])
    run.cut(0)
    return None


def begin(experiment: Experiment, w: Tensor | None = None) -> Position:
    """The position at step 0: the problem's own start, or given weights."""
    w = (experiment.problem.w0 if w is None else w.to(experiment.problem.w0)).clone()
    return Position(0, w, experiment.optimizer.init(w), {})
