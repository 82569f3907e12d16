"""`sharp train`: from the arguments of the command line to runs, with everything of Hydra's in between."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sharpcli import CONF
from sharpcli.commands import launchers, sweeps
from sharpcli.commands.report import complain, note, say, settled
from sharpcli.config import folders
from sharpcli.config.check import Checked, check
from sharpcli.config.quoting import quoted
from sharpcli.config.sweep import is_sweep
from sharpcli.config.words import compose, refusing
from sharpcli.errors import InOtherHands, Interrupted, OwnFault, Refusal, printable, signals
from sharpcli.errors.faults import told
from sharpcli.run import Run

# flags of Hydra's that would replace conf/, whose parts a run knows by name, or unpickle a file
NOT_TAKEN = ("config_path", "experimental_rerun")


def main(words: Sequence[str]) -> None:
    """Runs Hydra on the words of the command line: flags in any place, refusals instead of Hydra's own
    reports."""
    arguments, flags = parse(words)
    overrides, name = list(arguments.overrides), arguments.config_name or "config"
    shows = arguments.help or arguments.hydra_help or arguments.shell_completion or arguments.info
    of_sweep = arguments.multirun or is_sweep(overrides, name)
    jobs: list[sweeps.Job] = []
    if not shows and not arguments.cfg:
        launchers.refuse_unusable(overrides, of_sweep)
    if of_sweep and not shows and not arguments.cfg:
        jobs = sweeps.rehearse(overrides, name)
    elif not shows and not of_sweep:  # says what is wrong with an override before Hydra does
        config = compose(overrides, name)
        checked = None if arguments.cfg else check(config, overrides)
        if checked is not None and not flags and _is_plain(overrides):
            attempt(partial(_same, checked), overrides, None, None)  # Hydra would compose it twice more
            return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise, instead of printing and exiting with 1
    folder = sweeps.folder_of(jobs) if jobs else None
    if folder is not None and _is_plain(overrides):  # Hydra would compose each job twice more, and keep it
        for number, (of_job, checked) in enumerate(jobs):
            is_over = sweeps.is_over((of_job, checked))
            attempt(
                partial(_same, checked) if is_over else partial(_anew, of_job, name), of_job, number, folder
            )
        return sweeps.refuse_failed(folder, jobs)
    own = [] if folder is None else [sweeps.setting_of(folder)]
    sys.argv = [sys.argv[0], *flags, *quoted(overrides, of_sweep), *own]
    try:
        with refusing(overrides):
            job()
    except BrokenPipeError:  # who read our output has gone
        raise
    except Exception as problem:  # of a launcher, whose processes may be ended from outside
        if folder is not None:
            sweeps.refuse_failed(folder, jobs, problem)
        raise
    if folder is not None:
        sweeps.refuse_failed(folder, jobs)


def _same(checked: Checked) -> Checked:
    return checked


def _anew(overrides: Sequence[str], name: str) -> Checked:
    """The config of a job as it starts: its files may have changed since the sweep began."""
    return check(compose(overrides, name), overrides)


def _is_plain(overrides: Sequence[str]) -> bool:
    """Whether Hydra's own sweeper and launcher do a run or a sweep: nothing says otherwise."""
    return folders.own_folder() is None and not any(
        word.lstrip("+~").startswith("hydra") for word in overrides
    )


def dry_run(words: Sequence[str]) -> None:
    """Says of each job what the same words would do, and does none of it. Every job is checked, and those of
    a sweep that are not over are built, as before it starts."""
    arguments, _ = parse(words)
    overrides, name = list(arguments.overrides), arguments.config_name or "config"
    of_sweep = arguments.multirun or is_sweep(overrides, name)
    launchers.refuse_unusable(overrides, of_sweep)
    if of_sweep:
        sweeps.list_states(sweeps.rehearse(overrides, name))
    else:
        sweeps.list_states([(overrides, check(compose(overrides, name), overrides))])


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
    arguments.overrides = [launchers.as_hydra(override) for override in arguments.overrides]
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


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(cfg: DictConfig) -> float | None:
    """One run, in whatever process the launcher has started: see `attempt`."""
    hydra_config = HydraConfig.get()
    overrides: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)
    of_sweep = hydra_config.mode == RunMode.MULTIRUN
    if parent_process() is not None:  # who started the worker ends it, by SIGTERM
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signals.follow_parent()
    number, folder = (hydra_config.job.num, sweeps.own_folder()) if of_sweep else (None, None)
    return attempt(lambda: check(cfg, overrides), overrides, number, folder)


def attempt(
    config: Callable[[], Checked], overrides: Sequence[str], number: int | None, folder: Path | None
) -> float | None:
    """One run: trains it, carries it on, or says that it is complete. Returns its training loss, for
    sweepers. `number` is that of a job of a sweep, whose failures are written into the `folder`.

    A run of a sweep that another process trains is passed over: several processes share a sweep so. A job of
    a sweep that fails leaves the others alone, and is listed at the end. What an exception means is said
    here, since Hydra has its own way to report the exceptions of a job.
    """
    try:
        return run_of(config(), overrides, number)
    except InOtherHands as problem:
        if number is None:
            raise
        note(f"{problem}; passed over")
        return None
    except (Interrupted, KeyboardInterrupt) as problem:
        if parent_process() is not None:  # its next job must not begin
            signum = signals.number_of(problem)
            complain(str(problem) if isinstance(problem, Interrupted) else signals.how(signum))
            os._exit(128 + signum)
        raise
    except BrokenPipeError:  # who read our output has gone
        raise
    except (Exception, Refusal, OwnFault) as problem:
        fault = told(problem) if isinstance(problem, Exception) else problem
        if number is None or folder is None:
            raise fault from None
        sweeps.failed(folder, number, overrides, fault)
        return math.nan  # the other jobs go on, and a sweeper that optimizes sees that this one has failed


def run_of(checked: Checked, overrides: Sequence[str], number: int | None) -> float | None:
    """Trains the run of a config; `number` is that of a job of a sweep. Returns its training loss."""
    if number is not None:
        note(f"[job {number}] {' '.join(overrides)}")
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
