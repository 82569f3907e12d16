"""The one training loop: checkpoint, measure, step; for one trajectory, or for the lanes of a run with
replicas."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.due import Times
from sharpcli.engine.experiment import Experiment
from sharpcli.engine.measuring import Warm, lr_at, measure_for_step, restore
from sharpcli.engine.steps import COMPILED_AT_ONCE, Advance, advance
from sharpcli.errors import signals
from sharpcli.jsonl import Row
from sharpcli.landscape.batches import mapped
from sharpcli.optimizers import State, base_edge, columns, edge, started
from sharpcli.optimizers.parted import has_parts, whole
from sharpcli.run import Run, Written

NEVER = Times()
LARGEST_LOSS = 3.4e38  # about the largest float32 number: a larger training loss counts as diverged
SECONDS_BETWEEN_SAVES = (
    60.0  # write a checkpoint at least this often (seconds), keeping only the latest of these extra ones
)
# a checkpoint is forced to the disk where at least so much work (seconds) would be lost without: waiting for
# a disk (1 to 15 ms) at each checkpoint of a toy's short run would take longer than the run
SECONDS_TO_PROTECT = 0.5
Label = Mapping[str, Any]


@dataclass
class Lane:
    """A trajectory of a run: its experiment, and where it is: all that resuming needs.

    `warm` are each measure's vectors of the last measurement, from which the next one starts. `label` is what
    tells the lane apart from the other lanes of a run with replicas; None in a run of one trajectory. A lane
    that has `diverged` takes no further steps, nor does one that has `stopped`, at its stop_loss. `gradient`
    is that of the next step, where measuring has computed it.
    """

    experiment: Experiment
    w: Tensor
    state: State
    warm: Warm
    step: int = 0
    label: Label | None = None
    diverged: bool = False
    stopped: bool = False
    gradient: Tensor | None = None


@dataclass
class Position:
    """Where a run is: the step that all its lanes have reached, and the seconds spent by earlier
    processes."""

    step: int
    lanes: list[Lane]
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this run by all processes."""
        return self.seconds + time.perf_counter() - self.started

    def copy(self) -> Position:
        """The position as it is now: a step replaces a lane's tensors and never writes into them."""
        return replace(self, lanes=[copy(lane) for lane in self.lanes])


def train(
    run: Run,
    position: Position,
    checkpoint_every: int,
    tell: Callable[[int, Row | None], Any] = lambda step, row: None,
    threads: int = 1,
) -> Row:
    """Trains from `position` to the last step and returns the last row logged. At each step:

    1. a checkpoint is saved where it is due, with the warm vectors as they are *before* measuring, so that
    measuring the checkpoint again gives the same numbers; 2. what is due is measured, and a row is logged for
    each lane; at the last step always; 3. each lane is updated. Compiled lanes go on to the next step at
    which something is due, `threads` of them in parallel.

    Weights or a training loss that are not finite end a run of a single lane as diverged, which is a result;
    of several lanes, that lane's rows say so from then on. A training loss of at most the experiment's
    `stop_loss`, at a measured step, ends a run too: then all its measures are due, and a checkpoint is saved.
    On Ctrl-C, or another signal that ends the process, the position at which the step began is saved first,
    so that resuming measures that step again and logs it once. Processes that hold parts of an optimizer's
    state end together, at the next step: each has a part of what is saved. A power cut loses the work since
    the last checkpoint, or SECONDS_TO_PROTECT of it.
    """
    first = position.lanes[0].experiment
    moves = [advance(lane.experiment) for lane in position.lanes]
    several, last_step = position.lanes[0].label is not None, first.steps
    at_once = COMPILED_AT_ONCE if several else moves[0].at_once
    saved_at, forced_at, extra = time.perf_counter(), time.perf_counter(), None
    began, written = position.copy(), run.written
    group, together = first.processes, has_parts(first.optimizer)

    def agreed(number: float) -> float:
        """The largest of the processes' numbers, where all of them have to do the same."""
        return group.largest(number, position.lanes[0].w) if together else number

    try:
        # OpenMP counts threads for each thread: without the initializer a lane sums in another order
        with (
            signals.shielded() if together else nullcontext(),
            ThreadPoolExecutor(
                threads, initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
            ) as pool,
        ):
            while True:
                if signum := int(agreed(signals.came())):
                    raise signals.Ended(signum)
                began, written = position.copy(), run.written
                due = position.step % checkpoint_every == 0 or position.step == last_step
                now = time.perf_counter()
                late = now - saved_at > SECONDS_BETWEEN_SAVES or signals.passed_on()
                if due or agreed(late):
                    durable = now - forced_at >= SECONDS_TO_PROTECT
                    save(run, position, written, durable)
                    if extra is not None and extra != position.step:
                        run.drop(extra)
                    saved_at, extra = now, None if due else position.step
                    forced_at = now if durable else forced_at
                rows = rows_at(position)
                if rows:
                    run.log(*rows)
                tell(position.step, rows[0] if rows else None)
                if rows and (position.step >= last_step or _is_over(position)):
                    if position.lanes[0].stopped:
                        save(run, began, written)
                    run.finish()
                    return rows[-1]
                checkpoint = (position.step // checkpoint_every + 1) * checkpoint_every
                stop = min(last_step, checkpoint, next_due(first, position.step), position.step + at_once)
                moving = [
                    (lane, move)
                    for lane, move in zip(position.lanes, moves, strict=True)
                    if not lane.diverged
                ]
                if len(moving) == 1:
                    _move(*moving[0], stop)
                else:
                    for done in [pool.submit(_move, lane, move, stop) for lane, move in moving]:
                        done.result()
                position.step = stop if several else position.lanes[0].step
    except (KeyboardInterrupt, SystemExit) as ended:  # the latter by a handler of a cluster's launcher
        if not together or isinstance(ended, signals.Ended):  # which all processes raise at the same step
            with signals.shielded():
                save(run, began, written)
        raise


def _move(lane: Lane, move: Advance, stop: int) -> None:
    """Moves a lane to `stop`, or to the step at which its weights are no longer finite."""
    while lane.step < stop:
        gradient, lane.gradient = lane.gradient, None
        lane.w, lane.state, lane.step = move(lane.w, lane.state, lane.step, stop, gradient)
        if lane.step < stop and not bool(torch.isfinite(lane.w.sum())):
            return


def _is_over(position: Position) -> bool:
    """Whether a run of one trajectory has diverged or stopped. Replicas go on to the last step, so that each
    has its row there."""
    return position.lanes[0].label is None and (position.lanes[0].diverged or position.lanes[0].stopped)


def next_due(experiment: Experiment, step: int) -> int:
    """The next step at which a measure is due, the last step at the latest."""
    following = (times.after(step) for times in experiment.due.values())
    return min([experiment.steps, *(at for at in following if at is not None)])


def rows_at(position: Position) -> list[Row]:
    """A row for each lane at this step; none where nothing is due."""
    rows = []
    first = position.lanes[0].experiment
    for number, lane in enumerate(position.lanes):
        if lane.diverged:
            row: Row | None = {"diverged": True} if first.row_due(position.step) else None
        else:
            row = _row(lane, position)
        if row is None:
            continue
        if row.get("diverged") and not lane.diverged:
            lane.diverged = True
            row |= {} if lane.label is None else {"diverged_at": lane.step}
        if lane.label is not None:
            about = {"step": position.step, "replica": number, **lane.label}
            row = {**about, **row, "step": position.step, "seconds": round(position.elapsed, 3)}
        rows.append(row)
    return rows


def _row(lane: Lane, position: Position) -> Row | None:
    """The row of a lane at its step, or None where nothing is due."""
    experiment, at = lane.experiment, lane.step
    finite = math.isfinite(lane.w.sum())
    if finite and not experiment.row_due(at):
        return None
    at_the_end = [name for name, times in experiment.due.items() if times != NEVER]
    names = [name for name in at_the_end if at == experiment.steps or experiment.due[name].due(at)]
    lr = lr_at(experiment, lane.w, at)
    row: Row = {"step": at, "epoch": round(at / experiment.minibatches.per_epoch, 6), "lr_now": lr}
    edges = {"edge": edge(experiment.optimizer, lr), "base_edge": base_edge(experiment.optimizer, lr)}
    row |= {name: value for name, value in edges.items() if value is not None}
    if added := experiment.added_curvature:  # to the curvature that is measured
        row["added_curvature"] = added
    if finite:
        row |= columns(experiment.optimizer, lane.state, lr)
        measured, lane.warm, lane.gradient = measure_for_step(
            experiment, lane.w, at, lane.warm, names, lane.state
        )
        row |= measured
        lane.stopped = _stops(lane, row)
        if lane.stopped:
            others = [name for name in at_the_end if name not in names]
            measured, lane.warm, _ = measure_for_step(experiment, lane.w, at, lane.warm, others, lane.state)
            row |= {**measured, "stopped": True}
        finite = abs(row.get("train_loss", 0.0)) < LARGEST_LOSS
    if not finite:
        row["diverged"] = True
    return row | {"seconds": round(position.elapsed, 3)}


def _stops(lane: Lane, row: Row) -> bool:
    """Whether a lane ends at this row, before its last step, by its training loss."""
    experiment = lane.experiment
    if experiment.stop_loss is None or lane.step == experiment.steps:
        return False
    loss = row.get("train_loss")
    if loss is None:
        loss = float(experiment.problem.at(lane.w).value(lane.w))
    return bool(loss <= experiment.stop_loss)


def save(run: Run, position: Position, written: Written, durable: bool = True) -> None:
    """Writes a checkpoint of a position, with the bytes of metrics.jsonl that were `written` before it."""
    about: dict[str, Any] = {"step": position.step, "offset": written.bytes, "crc32": written.crc32}
    about |= {"seconds": position.elapsed}
    lanes = [_saved(lane) for lane in position.lanes]
    only = lanes[0] if position.lanes[0].label is None and lanes[0] is not None else {"replicas": lanes}
    run.save(position.step, about | only, durable)


def _saved(lane: Lane) -> dict[str, Any] | None:
    if lane.diverged and lane.label is not None:
        return None
    warm = {name: mapped(lambda t: t.cpu(), left) for name, left in lane.warm.items()}
    state = whole(lane.experiment.optimizer, lane.state)
    saved = {"w": lane.w.cpu(), "state": [part.cpu() for part in state], "warm": warm}
    schedule = lane.experiment.schedule
    return saved | ({"least_loss": schedule.least_loss} if schedule.asks_for_loss else {})


def resume(run: Run, lanes: Sequence[Lane], complain: Callable[[str], Any]) -> Position | None:
    """The position of the newest checkpoint that can be read and whose rows are all there, the rows cut back
    to it; None where there is no such checkpoint. `lanes` are the run's at its start.

    A checkpoint that is passed over is complained of, and a damaged checkpoint removed.
    """
    for step in reversed(run.checkpoints()):
        try:
            saved = run.load(step)
            position, offset = _restored(saved, lanes, step), int(saved["offset"])
            why = missing_rows(run, saved, lanes)
        except (ValueError, OSError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
            said = problem if isinstance(problem, ValueError | OSError) else f"checkpoint {step} is damaged"
            complain(f"{run.name}: {said}; going back to the checkpoint before")
            if not isinstance(problem, OSError):
                run.drop(step)
            continue
        if why:
            complain(f"{run.name}: {why} before checkpoint {step}; going back to the checkpoint before")
            continue
        run.cut(offset)
        return position
    if run.last() is not None or run.checkpoints():
        complain(f"{run.name}: no checkpoint can be used; starting again at step 0")
    for lane in lanes:
        lane.experiment.schedule.least_loss = math.inf  # a checkpoint that was passed over has set it
    run.cut(0)
    return None


def _restored(saved: Mapping[str, Any], lanes: Sequence[Lane], step: int) -> Position:
    """The position of a checkpoint. Raises ValueError where it does not fit the run."""
    parts = saved.get("replicas", [saved])
    if len(parts) != len(lanes):
        raise ValueError(f"checkpoint {step} is of {len(parts)} trajectories and not of {len(lanes)}")
    restored = [_restored_lane(lane, part, step) for lane, part in zip(lanes, parts, strict=True)]
    return Position(step, restored, float(saved["seconds"]))


def _restored_lane(lane: Lane, saved: Mapping[str, Any] | None, step: int) -> Lane:
    if saved is None:
        return replace(lane, step=step, diverged=True)
    w, warm, state = restore(saved, lane.experiment)
    return replace(lane, w=w, state=state, warm=warm, step=step)


def missing_rows(run: Run, saved: Mapping[str, Any], lanes: Sequence[Lane]) -> str:
    """In words, what is wrong with the rows logged before a checkpoint; empty where they are all there.

    A checkpoint knows the bytes of metrics.jsonl before it. One of an earlier version knows only their
    number, and then a row is asked for at every step at which one was due.
    """
    offset = saved["offset"]
    if run.offset < offset:
        return f"metrics.jsonl holds {run.offset} of the {offset} bytes that were logged"
    if "crc32" in saved:
        held = run.holds(Written(offset, saved["crc32"]))
        return "" if held else "metrics.jsonl does not hold the rows that were logged"
    return wrong_steps(run.logged_before(offset), lanes, saved["step"])


def wrong_rows(run: Run, lanes: Sequence[Lane]) -> str:
    """In words, what is wrong with the rows of a finished run that did not note them at its end: one is
    missing, or they are not those that its newest checkpoint knows."""
    last = run.last()
    if last is None:
        return "metrics.jsonl has no row"
    if wrong := wrong_steps(run.logged()[: -len(lanes)], lanes, last["step"]):
        return wrong
    for step in run.checkpoints()[-1:]:
        try:
            return missing_rows(run, run.load(step), lanes)
        except (ValueError, OSError, KeyError, TypeError):  # a damaged checkpoint says nothing of the rows
            break
    return ""


def wrong_steps(rows: Sequence[Row], lanes: Sequence[Lane], before: int) -> str:
    """In words, how the steps of rows differ from those at which rows are due before a step."""
    due = (step for step in _due_steps(lanes[0].experiment, before) for _ in lanes)
    for row, step in itertools.zip_longest(rows, due):
        if step is None or row is None or row["step"] != step:
            place = "" if step is None else f", where one of step {step} is due"
            held = "ends" if row is None else f"has a row of step {row['step']}"
            return f"metrics.jsonl {held}{place}"
    return ""


def _due_steps(experiment: Experiment, before: int) -> Iterator[int]:
    step = 0
    while step < before:
        if experiment.row_due(step):
            yield step
        step = max(next_due(experiment, step), step + 1)


def begin(experiment: Experiment, label: Label | None = None) -> Lane:
    """A lane at step 0: at the experiment's start `init`."""
    start = experiment.problem.w0 if experiment.init is None else experiment.init
    w = start.to(experiment.problem.w0).clone()
    return Lane(experiment, w, started(experiment.optimizer, w), {}, label=label)
