"""`sharp train`: from the arguments of the command line to runs, with everything of Hydra's in between."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing import parent_process
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sharpcli import CONF
from sharpcli.commands.report import complain, note, say, settled
from sharpcli.config import folders
from sharpcli.config.check import Checked, check
from sharpcli.config.quoting import quoted
from sharpcli.config.sweep import is_sweep, sweep
from sharpcli.config.words import compose, refusing
from sharpcli.errors import InOtherHands, Interrupted, Refusal, printable, signals
from sharpcli.errors.faults import told
from sharpcli.run import Run, in_other_hands

# flags of Hydra's that would replace conf/, whose parts a run knows by name, or unpickle a file
NOT_TAKEN = ("config_path", "experimental_rerun")


def main(words: Sequence[str]) -> None:
    """Runs Hydra on the words of the command line: flags in any place, refusals instead of Hydra's own
    reports."""
    arguments, flags = parse(words)
    overrides, name = list(arguments.overrides), arguments.config_name or "config"
    shows = arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info
    of_sweep = arguments.multirun or is_sweep(overrides, name)
    if of_sweep and not shows and not arguments.cfg:
        rehearse(overrides, name)
    elif not shows and not of_sweep:  # says what is wrong with an override before Hydra does
        config = compose(overrides, name)
        if not arguments.cfg:
            check(config, overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, instead of printing and exiting with 1
    sys.argv = [sys.argv[0], *flags, *quoted(overrides, of_sweep)]
    with refusing(overrides):
        job()


def dry_run(words: Sequence[str]) -> None:
    """Says of each job what the same words would do, and does none of it: a line with the job's own settings,
    and the state and directory of its run. Every job is checked, and those of a sweep are built, as before it
    starts."""
    arguments, _ = parse(words)
    overrides, name = list(arguments.overrides), arguments.config_name or "config"
    of_sweep = arguments.multirun or is_sweep(overrides, name)
    jobs = (
        rehearse(overrides, name) if of_sweep else [(overrides, check(compose(overrides, name), overrides))]
    )
    states = []
    for number, (of_job, checked) in enumerate(jobs):
        state, where = _state_of(checked)
        states.append(state.split(" at ")[0])
        say(f"[job {number}] {' '.join(of_job)}: {printable(state)}{where}")
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    note(
        f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {counted}; the same command without --dry-run trains them"
    )


def _state_of(checked: Checked) -> tuple[str, str]:
    """The state of a config's run, and where it is: `not begun`, `complete`, `diverged`, `interrupted at step
    ...`, or `being trained`, by another process."""
    from sharpcli.engine.same_run import runs_of

    runs = runs_of(checked)
    if not runs:
        return "not begun", ""
    run = runs[0]
    where = f" ({printable(str(run.path))})"
    if run.status != "unfinished":
        return run.status, where
    if in_other_hands(run.path):
        return "being trained", where
    last = run.last()
    return f"interrupted at step {0 if last is None else last['step']} of {run.steps}", where


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Hydra's own arguments, from words in any order, and the flags among them as words again."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise Refusal(f"sharp train: {message}; sharp train --help shows what is possible")

    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(list(words))
    for flag in NOT_TAKEN:
        if (value := getattr(arguments, flag)) is not None:
            raise Refusal(
                f"--{flag.replace('_', '-')} {value}: not taken; --config-dir adds a folder of your own"
            )
    folders.use(arguments.config_dir)
    arguments.config_dir = folders.own_folder()
    flags: list[str] = []
    for action in parser._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or value in (None, False):
            continue
        flags.append(action.option_strings[0])
        if value is not True:
            flags.append(str(value))
    return arguments, flags


def rehearse(overrides: Sequence[str], name: str = "config") -> list[tuple[list[str], Checked]]:
    """Checks and builds every job of a sweep, so that one bad job stops it before the first has started;
    returns the jobs' overrides and configs.

    The jobs of Hydra's basic sweeper are known beforehand; another sweeper chooses its own as it goes, and
    each is then checked as it starts.
    """
    from sharpcli.engine.experiment import build, forget_data
    from sharpcli.engine.launch import checked_with_source
    from sharpcli.engine.replicas import experiments

    forget_data()
    jobs, configs = sweep(overrides, name), []
    for number, of_job in enumerate(jobs, 1):
        try:
            checked = checked_with_source(check(compose(of_job, name), of_job))
            if checked.config["replicas"] == 1:
                build(checked)
            else:
                experiments(checked)
        except Refusal as problem:
            which = f"job {number} of {len(jobs)} ({' '.join(of_job)}): " if len(jobs) > 1 else ""
            raise Refusal(f"{which}{problem}; nothing was started") from None
        configs.append((of_job, checked))
    return configs


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One run: trains it, carries it on, or says that it is complete. Returns its training loss, for
    sweepers.

    A run of a sweep that another process trains is passed over: several processes share a sweep so. What an
    exception means is said here, since Hydra has its own way to report the exceptions of a job.
    """
    hydra_config = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    of_sweep = hydra_config.mode == RunMode.MULTIRUN
    is_worker = parent_process() is not None
    if is_worker:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started the worker ends it, by SIGTERM
        signals.follow_parent()
    try:
        return run_of(cfg, overrides, hydra_config.job.num if of_sweep else None)
    except InOtherHands as problem:
        if not of_sweep:
            raise
        note(f"{problem}; passed over")
        return None
    except (Interrupted, KeyboardInterrupt) as problem:
        if is_worker:  # its next job must not begin
            signum = signals.number_of(problem)
            complain(str(problem) if isinstance(problem, Interrupted) else signals.how(signum))
            os._exit(128 + signum)
        raise
    except BrokenPipeError:  # who read our output has gone
        raise
    except Exception as problem:
        raise told(problem) from None


def run_of(cfg: DictConfig, overrides: Sequence[str], number: int | None) -> float | None:
    """Trains the run of a config; `number` is that of a job of a sweep. Returns its training loss."""
    if number is not None:
        note(f"[job {number}] {' '.join(overrides)}")
    checked = check(cfg, overrides)
    from sharpcli.commands.progress import progress
    from sharpcli.engine.experiment import forget_data
    from sharpcli.engine.launch import Console, checked_with_source, launch

    if number is None:
        forget_data()
    job = "" if number is None else f"[job {number}] "
    console = Console(progress=partial(progress, job=job), complain=complain, note=note, announce=announce)
    last = launch(checked_with_source(checked), overrides, console).last()
    return None if last is None else last.get("train_loss")


def announce(run: Run, how: str) -> None:
    """The end of a run, on standard output: its directory, and its last numbers."""
    for line in (f"{printable(str(run.path))}: {how}", *settled(run)):
        say(line)
