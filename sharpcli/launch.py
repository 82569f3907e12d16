"""`sharp train`: from words to runs, with everything of Hydra's in between."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from sharpcli import CONF
from sharpcli.config import Checked, check, compose, refusing
from sharpcli.errors import Refusal
from sharpcli.run import Row, Run, find, writing

if TYPE_CHECKING:
    from sharpcli.ranks import Ranks


def main(words: Sequence[str]) -> None:
    """Runs Hydra on the words of the command line: flags in any place, refusals instead of Hydra's own reports."""
    arguments, flags = parse(words)
    overrides = list(arguments.overrides)
    if arguments.config_dir and not Path(arguments.config_dir).is_dir():
        raise Refusal(f"--config-dir {arguments.config_dir}: no such directory; name one that holds groups, as conf/ does")
    if arguments.multirun:
        rehearse(overrides, arguments.config_dir)
    elif not (arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info):
        compose(overrides, arguments.config_dir)  # says what is wrong with the words before Hydra does
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, instead of printing and exiting with 1
    sys.argv = [sys.argv[0], *flags, *overrides]
    try:
        with refusing(overrides):
            job()
    except (ValueError, AssertionError) as problem:
        if HydraConfig.initialized():  # a job was running: the fault is ours, and wants a traceback
            raise
        raise Refusal(f"{problem}") from None


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's own arguments, from words in any order, and the flags among them as words again."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise Refusal(f"sharp train: {message}; sharp train --help shows what is possible")

    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(list(words))
    flags: list[str] = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or value in (None, False):
            continue
        flags.append(action.option_strings[0])
        if value is not True:
            flags.append(str(value))
    return arguments, flags


def rehearse(overrides: Sequence[str], config_dir: str | None) -> None:
    """Checks and builds every job of a sweep, so that one bad job stops it before the first has started.

    The jobs of Hydra's basic sweeper are known beforehand; another sweeper chooses its own as it goes, and each is
    then checked as it starts.
    """
    from sharpcli.experiment import build

    jobs = sweep(overrides, config_dir)
    for number, words in enumerate(jobs, 1):
        try:
            build(checked_with_source(check(compose(words, config_dir), words)))
        except Refusal as problem:
            which = f"job {number} of {len(jobs)} ({' '.join(words)}): " if len(jobs) > 1 else ""
            raise Refusal(f"{which}{problem}; nothing was started") from None


def sweep(overrides: Sequence[str], config_dir: str | None) -> list[list[str]]:
    """The words of each job of a sweep."""
    with refusing(overrides):
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(list(overrides))
        fixed = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line is not None]
        sweeper = compose(fixed, config_dir, hydra=True).hydra.sweeper
        if not sweeper._target_.endswith("BasicSweeper"):
            return [fixed]
        extra = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*extra, *overrides]), None)
        return [[word for word in job if not word.startswith("hydra")] for job in jobs]


def checked_with_source(checked: Checked) -> Checked:
    """`init_from` as <hash>@<step>, so that the name says which weights and not where they lay; the path in `local`."""
    if not checked.config.get("init_from"):
        return checked
    word, _, step = checked.config["init_from"].partition("@")
    source = find(word, Path(checked.local["runs_dir"]))
    there = source.checkpoints()
    if (step and not step.isdigit()) or (int(step) if step else -1) not in [-1, *there] or not there:
        raise Refusal(f"init_from={word}@{step}: {source.name} has checkpoints at steps {', '.join(map(str, there)) or 'none'}")
    at = int(step) if step else there[-1]
    local = checked.local | {"source": (str(source.path), at)}
    return replace(checked, config=checked.config | {"init_from": f"{source.hash}@{at}"}, local=local)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One run: trains it, carries it on, or says that it is complete. Returns its training loss, for sweepers."""
    about = HydraConfig.get()
    words = list(about.overrides.task)
    if about.mode == RunMode.MULTIRUN:
        print(f"[job {about.job.num}] {' '.join(words)}", file=sys.stderr, flush=True)
    checked = checked_with_source(check(cfg, words))
    return launch(checked, words).get("train_loss")


def launch(checked: Checked, words: Sequence[str] = ()) -> Row:
    """Trains, resumes or skips the run of a checked config, and says where it is and what was seen."""
    from sharpcli.ranks import ranks

    with ranks() as here:
        return _launch(checked, words, here)


def _launch(checked: Checked, words: Sequence[str], here: Ranks) -> Row:
    if checked.config["replicas"] != 1:
        return _launch_replicas(checked, words, here)
    path = directory(checked)
    if (path / "provenance.json").exists():
        run = Run(path)
        last = run.last()
        if last is not None and run.status != "unfinished":
            say(run, f"already {run.status}, nothing to do")
            return last
    fresh = not (path / "provenance.json").exists()
    here.wait()  # all have looked before the first writes
    from sharpcli.experiment import build, device
    from sharpcli.measure import begun, enough_memory
    from sharpcli.progress import progress
    from sharpcli.provenance import content_hash, provenance
    from sharpcli.train import begin, resume, train

    experiment = build(checked, here)
    source = provenance(device(checked.local["device"]), ["sharp", "train", *words])
    source |= {"processes": here.size} if here.size > 1 else {}
    if fresh:
        start = begin(experiment, start_weights(checked, experiment))
        facts = {"dtype": str(experiment.problem.w0.dtype), "parameters": len(experiment.problem.w0)}
        facts |= {"examples": len(experiment.problem.examples[1]), "data": content_hash(experiment.problem.examples)}
        if here.first:
            Run.create(path, checked.config, {"steps": experiment.steps, **facts, **source})
        here.wait()
    run = Run(path, writes=here.first)
    with run.lock():
        position = start if fresh else resume(run, experiment, complain)
        here.wait()  # all have read before the first writes
        experiment = replace(experiment, init=start.w) if fresh else begun(experiment, run)
        if position is None:
            position = begin(experiment, start_weights(checked, experiment))
        differs = [] if fresh else differences(run.provenance, source)
        if differs:
            complain(f"{run.name}: resumed with another {', '.join(differs)}: the last digits may differ from a whole run's")
        if not fresh and here.first:
            run.resumed(step=position.step, **source)
            print(f"resuming {run.path} at step {position.step}", file=sys.stderr, flush=True)
        every = checkpoint_period(checked, experiment)
        try:
            bar = progress(experiment.steps, position.step) if here.first else nullcontext(lambda step, row: None)
            with bar as tell, enough_memory(experiment):
                last = train(experiment, run, position, every, tell)
        except KeyboardInterrupt:
            raise Refusal(f"interrupted at step {position.step}; the same command resumes {run.path}") from None
    say(run, f"diverged at step {last['step']}" if last.get("diverged") else "complete")
    return last


def _launch_replicas(checked: Checked, words: Sequence[str], here: Ranks) -> Row:
    import torch

    from sharpcli import replicas
    from sharpcli.experiment import device
    from sharpcli.measure import enough_memory
    from sharpcli.progress import progress
    from sharpcli.provenance import content_hash, provenance

    if here.size > 1 or checked.config.get("init_from"):
        raise Refusal("replicas= trains from the problem's own start in one process: leave torchrun and init_from= out")
    path = directory(checked)
    if (path / "provenance.json").exists() and (run := Run(path)).status == "complete":
        say(run, "already complete, nothing to do")
        return run.last() or {}
    those = replicas.experiments(checked)
    first = those[0][1]
    if not (path / "provenance.json").exists():
        facts = {"dtype": str(first.problem.w0.dtype), "parameters": len(first.problem.w0), "replicas": len(those)}
        facts |= {"examples": len(first.problem.examples[1]), "data": content_hash(first.problem.examples)}
        source = provenance(device(checked.local["device"]), ["sharp", "train", *words])
        Run.create(path, checked.config, {"steps": first.steps, **facts, **source})
    run = Run(path)
    with run.lock():
        lanes = replicas.resume(run, those, complain) or replicas.start(those)
        threads = checked.local["threads"] or torch.get_num_threads()
        try:
            with progress(first.steps, lanes.step) as tell, enough_memory(first):
                every = first.steps if checked.local["checkpoint_every"] is None else checkpoint_period(checked, first)
                replicas.train(those, run, lanes, max(every, 1), threads, tell)
        except KeyboardInterrupt:
            raise Refusal(f"interrupted at step {lanes.step}; the same command resumes {run.path}") from None
    say(run, f"complete, {len(those)} replicas")
    return run.last() or {}


def directory(checked: Checked) -> Path:
    """Where the run is or will be: by its hash, whatever label it was started under."""
    runs_dir = Path(checked.local["runs_dir"])
    found = sorted(runs_dir.glob(f"*-{checked.hash}/provenance.json"))
    return found[0].parent if found else runs_dir / checked.name


def start_weights(checked: Checked, experiment: Any) -> Any:
    """The weights that `init_from` names, or None. Refuses weights of another model."""
    if "source" not in checked.local:
        return None
    path, step = checked.local["source"]
    try:
        w = Run(Path(path)).load(step)["w"]
    except (ValueError, OSError, RuntimeError) as problem:
        raise Refusal(f"init_from: {problem} in {path}; choose another step") from None
    if len(w) != len(experiment.problem.w0):
        raise Refusal(
            f"init_from: {path} has {len(w)} parameters and this model {len(experiment.problem.w0)}; use the same model"
        )
    return w


def checkpoint_period(checked: Checked, experiment: Any) -> int:
    """`checkpoint_every` in steps; by default a tenth of the run, at steps that are measured."""
    from sharpcli.times import in_steps, times

    if checked.local["checkpoint_every"] is not None:
        return in_steps(checked.local["checkpoint_every"], experiment.minibatches.per_epoch) or max(experiment.steps, 1)
    measured = times(checked.config["measure_every"], experiment.minibatches.per_epoch, experiment.steps).every or 1
    return max(1, round(experiment.steps / 10 / measured)) * measured


def differences(before: Any, now: Any) -> list[str]:
    """What the last bits depend on and is not as it was."""
    names = [key for key in ("device", "threads", "tf32") if before.get(key) != now[key]]
    return names + [key for key in ("torch",) if before["packages"].get(key) != now["packages"][key]]


def say(run: Run, how: str) -> None:
    """The end of a run, on standard output: where things are and what was seen."""
    from sharpcli.report import settled

    with writing(run.path):
        print(f"{run.path}: {how}")
    for line in settled(run):
        print(line)


def complain(message: str) -> None:
    """A warning, one line on standard error."""
    print(f"sharp: {message}", file=sys.stderr, flush=True)
