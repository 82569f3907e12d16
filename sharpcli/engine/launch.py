"""From a checked config to a finished run: a new run is begun, an unfinished run resumed, a finished run left
alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.config import former
from sharpcli.config.check import Checked
from sharpcli.config.paths import exists
from sharpcli.due import in_steps, times
from sharpcli.engine import replicas
from sharpcli.engine.experiment import Experiment, build, with_start
from sharpcli.engine.same_run import INPUTS, changed_inputs, rounding_differences, runs_of
from sharpcli.engine.train import Lane, Position, begin, resume, train, wrong_rows
from sharpcli.errors import InOtherHands, Interrupted, Refusal, signals
from sharpcli.jsonl import Row
from sharpcli.landscape.distributed import Processes, processes
from sharpcli.optimizers import remarks
from sharpcli.provenance import provenance
from sharpcli.run import FINISHED, Run, locked
from sharpcli.runs_dir import find

Tell = Callable[[int, Row | None], Any]


@contextmanager
def _no_progress(steps: int, step: int, scores: Sequence[str]) -> Iterator[Tell]:
    yield lambda step, row: None


@dataclass(frozen=True)
class Console:
    """What a user sees of a run: `progress(steps, step, scores)` while it lasts, `complain` for a warning,
    `note` for a remark, and `announce(run, how)` at its end. By default nothing."""

    progress: Callable[[int, int, Sequence[str]], AbstractContextManager[Tell]] = _no_progress
    complain: Callable[[str], Any] = lambda message: None
    note: Callable[[str], Any] = lambda message: None
    announce: Callable[[Run, str], Any] = lambda run, how: None


QUIET = Console()


def launch(
    checked: Checked, arguments: Sequence[str] = (), console: Console = QUIET, wait: bool = False
) -> Run:
    """Trains, resumes or skips the run of a checked config, and announces its end; `arguments` are those of
    the command. A run that another process trains is refused, or with `wait`, waited for."""
    with processes() as group, signals.raised():
        if not group.first:
            console = QUIET
        lanes = _lanes(checked, group)
        first = lanes[0].experiment
        _note_odd(checked, first, console)
        source = provenance(first.problem.w0.device, ["sharp", "train", *arguments])
        source |= {"processes": group.size} if group.size > 1 else {}
        with _held(checked, lanes, source, group, console, wait) as (run, is_new):
            if not is_new and _is_over(run, lanes, console):
                console.announce(run, f"already {run.status}, nothing to do")
                return run
            start = Position(0, lanes)
            position = start if is_new else resume(run, lanes, console.complain) or start
            group.wait()  # every process has read the directory; the first may change it now
            if not is_new:
                _note_resuming(run, position, source, group, console)
            last = _train(run, position, checked, console)
        console.announce(run, _ending(lanes, last))
        return run


def _note_odd(checked: Checked, experiment: Experiment, console: Console) -> None:
    """A remark on settings that are allowed and most often a slip."""
    size, n = checked.config["batch_size"], len(experiment.problem.examples[1])
    if size != "full" and size > n:
        console.note(f"batch_size={size}: more than the {n} training examples; each batch is all of them")
    for remark in remarks(experiment.optimizer, experiment.steps, experiment.minibatches.batch_size):
        console.note(remark)
    if not experiment.steps:
        console.note(f"steps={checked.config['steps']}: nothing is trained; the start is measured")


def _train(run: Run, position: Position, checked: Checked, console: Console) -> Row:
    """Trains to the end. A signal ends it in one line, once the position is saved."""
    first = position.lanes[0].experiment
    threads = checked.local["threads"] or torch.get_num_threads()
    try:
        with (
            console.progress(first.steps, position.step, list(first.problem.better)) as tell,
            first.enough_memory(),
        ):
            return train(run, position, checkpoint_period(checked, first), tell, threads)
    except KeyboardInterrupt as interrupt:
        signum = signals.number_of(interrupt)
        raise Interrupted(
            f"{signals.how(signum)} at step {position.step}; the same command resumes {run.path}", signum
        ) from None


def _is_over(run: Run, lanes: Sequence[Lane], console: Console) -> bool:
    """Whether a run has ended, with all its rows; complains of a finished run that lacks rows. A run that was
    killed between its last row and the note of its rows is resumed: its last rows are measured again."""
    if run.status not in FINISHED:
        return False
    wrong = run.damage()
    if not wrong and "rows" not in run.provenance:
        if run.notes_its_rows:
            return False
        wrong = wrong_rows(run, lanes)
    if wrong:
        console.complain(f"{run.name}: {wrong}; its steps since the last good checkpoint are trained again")
    return not wrong


def _ending(lanes: Sequence[Lane], last: Row) -> str:
    if lanes[0].label is not None:
        return f"complete, {len(lanes)} replicas"
    if last.get("diverged"):
        return f"diverged at step {last['step']}"
    return f"complete: stop_loss reached at step {last['step']}" if last.get("stopped") else "complete"


def _lanes(checked: Checked, group: Processes) -> list[Lane]:
    """The trajectories of a run at their start: one, or a labelled one for each of its replicas."""
    if checked.config["replicas"] == 1:
        experiment = build(checked, group)
        start = start_weights(checked, experiment)
        return [begin(experiment if start is None else with_start(experiment, start))]
    if group.size > 1 or checked.config.get("init_from"):
        raise Refusal(
            "replicas= trains from the problem's own start in one process: leave torchrun and init_from= out"
        )
    if checked.config.get("stop_loss") is not None:
        raise Refusal(
            "replicas= share their steps, and stop_loss= ends each run by itself; give one of them, or a "
            "sweep of seeds (-m)"
        )
    return [begin(experiment, label) for label, experiment in replicas.experiments(checked)]


@contextmanager
def _held(
    checked: Checked,
    lanes: Sequence[Lane],
    source: dict[str, Any],
    group: Processes,
    console: Console,
    wait: bool,
) -> Iterator[tuple[Run, bool]]:
    """The run of this config on these data, and whether it is new, held while the context lasts.

    Everything is decided while the run is held: a process that looked earlier may have seen it unfinished, or
    missing, before another process made it. A finished run in a folder that cannot be written is not held.
    """
    facts = _facts_of(checked, lanes)
    path, note = _place(checked, facts | source)
    with ExitStack() as stack:
        while group.first:
            try:
                stack.enter_context(locked(path, wait))
            except InOtherHands:
                raise
            except Refusal:
                if not os.path.lexists(path / "provenance.json") or Run(path).status not in FINISHED:
                    raise
            before, (path, note) = path, _place(checked, facts | source)
            if path == before:
                break
            stack.close()
        group.wait()  # the first process holds the directory: what the others read does not change
        if not group.first:
            path, note = _place(checked, facts | source)
        is_new = not os.path.lexists(path / "provenance.json")
        group.wait()  # every process has read the directory; the first may change it now
        if is_new and group.first:
            if note:
                console.note(note)
            Run.create(path, checked.config, {**facts, **source}, console.complain)
        group.wait()
        yield Run(path, writes=group.first), is_new


def _facts_of(checked: Checked, lanes: Sequence[Lane]) -> dict[str, Any]:
    """What the provenance of a run says of its config and its problem; of replicas that differ in their data,
    the hash of all of them."""
    first = lanes[0].experiment
    facts = {"hash": checked.hash, "contents": checked.contents, "steps": first.steps, **first.facts}
    if any(setting.startswith("data.") for setting in lanes[0].label or ()):
        of_lanes = [lane.experiment.facts for lane in lanes]
        facts |= {key: former.digest({key: [of[key] for of in of_lanes]}) for key in ("data", "test_data")}
    return facts | ({"replicas": len(lanes)} if lanes[0].label is not None else {})


def _place(checked: Checked, facts: dict[str, Any]) -> tuple[Path, str]:
    """Where the run of this config on these data is, or is to be made; and what is to be noted of that. A run
    of the same config on other data is another run, and the new run's name says which data it has."""
    candidates = runs_of(checked)
    for run in candidates:
        if not changed_inputs(run.provenance, facts):
            if run.steps != facts["steps"]:
                raise Refusal(
                    f"{run.path / 'provenance.json'}: steps is {run.steps} and was {facts['steps']}; "
                    f"restore it"
                )
            return run.path, ""
    path = Path(checked.local["runs_dir"]) / checked.name
    if not candidates:
        return path, ""
    other = candidates[-1]
    what = changed_inputs(other.provenance, facts)[0]
    return (
        path.parent / checked.name_with(*(str(facts[key]) for key in INPUTS)),
        f"the {what} changed since {other.name}: this is a new run",
    )


def _note_resuming(
    run: Run, position: Position, source: dict[str, Any], group: Processes, console: Console
) -> None:
    if others := rounding_differences(run.provenance, source):
        console.complain(
            f"{run.name}: changed since it began: {', '.join(others)}; the last digits may differ from "
            f"those of a run without a break"
        )
    if group.first:
        run.resumed(step=position.step, **source)
    console.note(f"resuming {run.path} at step {position.step}")


def checked_with_source(checked: Checked) -> Checked:
    """Replaces `init_from` by <hash>@<step>, so that the run's name does not depend on a path; the path goes
    into `local["source"]`. Refuses a run or a step that does not exist."""
    if not checked.config.get("init_from"):
        return checked
    word, step = checked.config["init_from"], ""
    if not exists(word) and "@" in word:  # a path may hold an @ itself
        word, _, step = word.rpartition("@")
    run = find(word, Path(checked.local["runs_dir"]))
    saved = run.checkpoints()
    if not saved or (step and not (step.isdigit() and int(step) in saved)):
        steps = ", ".join(map(str, saved)) or "none"
        raise Refusal(f"init_from={word}@{step}: {run.name} has checkpoints at steps {steps}")
    at = int(step) if step else saved[-1]
    local = checked.local | {"source": (str(run.path), at)}
    return replace(checked, config=checked.config | {"init_from": f"{run.hash}@{at}"}, local=local)


def start_weights(checked: Checked, experiment: Experiment) -> Tensor | None:
    """The weights that `init_from` names, or None. Refuses weights of another model, also where it is its
    frozen ones that differ."""
    if "source" not in checked.local:
        return None
    path, step = checked.local["source"]
    source = Run(Path(path))
    source.refuse_altered()
    try:
        w = source.load(step)["w"]
    except (ValueError, OSError, RuntimeError, KeyError, TypeError) as problem:
        raise Refusal(f"init_from: {problem} in {path}; choose another step") from None
    size = len(experiment.problem.w0)
    if len(w) != size:
        raise Refusal(f"init_from: {path} has {len(w)} parameters and this model {size}; use the same model")
    facts = experiment.facts
    if source.provenance.get("held_values", facts["held_values"]) != facts["held_values"]:
        raise Refusal(
            f"init_from: the frozen parameters or buffers of {path} have other values than this model's; "
            "use the same model and seed"
        )
    return w


def with_original_start(experiment: Experiment, run: Run) -> Experiment:
    """The experiment with `init` set to the run's checkpoint of step 0, if `init_from` started it from
    another run; None where that checkpoint is gone, of which measures of the start say so."""
    if not run.config.get("init_from"):
        return experiment
    if 0 not in run.checkpoints():
        return replace(experiment, init=None)
    try:
        return with_start(experiment, run.load(0)["w"].to(experiment.problem.w0))
    except (ValueError, OSError, RuntimeError) as problem:
        raise Refusal(
            f"{run.name}: its first weights are lost ({problem}); start it again in another runs_dir"
        ) from None


def checkpoint_period(checked: Checked, experiment: Experiment) -> int:
    """`checkpoint_every` in steps; by default a tenth of the run at steps that are measured, and for
    replicas, whose runs are short, the whole run."""
    if checked.local["checkpoint_every"] is not None:
        return in_steps(checked.local["checkpoint_every"], experiment.minibatches.per_epoch) or max(
            experiment.steps, 1
        )
    if checked.config["replicas"] != 1:
        return max(experiment.steps, 1)
    measured = (
        times(checked.config["measure_every"], experiment.minibatches.per_epoch, experiment.steps).every or 1
    )
    return max(1, round(experiment.steps / 10 / measured)) * measured
