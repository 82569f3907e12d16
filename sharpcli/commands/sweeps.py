"""A sweep's jobs: all of them checked before the first starts, their states, and those that failed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sharpcli.commands.report import complain, note, say
from sharpcli.config.check import Checked, check
from sharpcli.config.quoting import marks
from sharpcli.config.sweep import sweep
from sharpcli.config.words import compose
from sharpcli.errors import OwnFault, Refusal, printable
from sharpcli.run import in_other_hands

OVER = ("complete", "diverged")
BEING_TRAINED = "being trained"
VARIABLE = "SHARP_SWEEP"  # the environment variable that tells a job of the sweep's folder
Job = tuple[list[str], Checked]  # the overrides and the config of a job


def rehearse(overrides: Sequence[str], name: str = "config") -> list[Job]:
    """Checks every job of a sweep, and builds it where its run is not over, so that one bad job stops the
    sweep before the first has started; returns the jobs.

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
            if is_over((of_job, checked)):
                pass  # it was built once
            elif checked.config["replicas"] == 1:
                build(checked)
            else:
                experiments(checked)
        except Refusal as problem:
            which = f"job {number} of {len(jobs)} ({' '.join(of_job)}): " if len(jobs) > 1 else ""
            raise Refusal(f"{which}{problem}; nothing was started") from None
        configs.append((of_job, checked))
    return configs


def is_over(job: Job) -> bool:
    """Whether a run of the job's config is complete or has diverged."""
    from sharpcli.engine.same_run import runs_of

    return any(run.status in OVER for run in runs_of(job[1]))


def list_states(jobs: Sequence[Job]) -> None:
    """Prints a line for each job: its own settings, and the state and directory of its run."""
    states = []
    for number, (of_job, checked) in enumerate(jobs):
        state, where = _state_of(checked)
        states.append(state.split(" at ")[0])
        say(f"[job {number}] {' '.join(of_job)}: {printable(state)}{where}")
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    over = all(state in ("complete", "diverged") for state in states)
    rest = "nothing is left to train" if over else "the same command without --dry-run trains them"
    note(f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {counted}; {rest}")


def _state_of(checked: Checked) -> tuple[str, str]:
    """The state of a config's run, and where it is: `not begun`, `complete`, `diverged`, `unfinished at step
    ...`, or `being trained`, by another process."""
    from sharpcli.engine.same_run import runs_of

    runs = runs_of(checked)
    if not runs:
        return "not begun", ""
    run = runs[0]
    where = f" ({printable(str(run.path))})"
    if run.status in OVER:
        return run.status, where
    if in_other_hands(run.path):
        return BEING_TRAINED, where
    last = run.last()
    return f"unfinished at step {0 if last is None else last['step']} of {run.steps}", where


def folder_of(jobs: Sequence[Job]) -> Path:
    """Where the jobs of a sweep that begins now write why they failed, which the process that started the
    sweep reads. It is made only then."""
    runs_dir = Path(jobs[0][1].local["runs_dir"]).absolute()
    return runs_dir / ".sweeps" / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"


def setting_of(folder: Path) -> str:
    """The override by which Hydra tells every job of this folder, on whatever machine it runs."""
    return f"+hydra.job.env_set.{VARIABLE}={marks(str(folder))}"


def own_folder() -> Path | None:
    """The folder of the sweep whose job this process does."""
    return Path(os.environ[VARIABLE]) if VARIABLE in os.environ else None


def failed(folder: Path, number: int, overrides: Sequence[str], problem: Refusal | OwnFault) -> None:
    """Says why a job has failed, and writes it into the folder of its sweep. Where it cannot be written, the
    sweep ends here, rather than without a word of it."""
    complain(f"[job {number}] {problem}")
    facts = {"overrides": list(overrides), "reason": str(problem), "own": isinstance(problem, OwnFault)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.json").write_text(json.dumps(facts))
    except OSError:
        raise problem from None


def refuse_failed(folder: Path, jobs: Sequence[Job], ended: Exception | None = None) -> None:
    """Lists the jobs of a sweep that have failed, and refuses; `ended` is how the launcher itself failed, as
    where the system killed a process: then jobs whose runs are not over have failed too."""
    reasons: dict[int, tuple[list[str], str]] = {}
    faults = []
    for file in folder.glob("*.json"):  # a sweeper that chooses its jobs as it goes has more than `jobs`
        facts = json.loads(file.read_text())
        reasons[int(file.stem)] = facts["overrides"], facts["reason"].splitlines()[-1]
        faults += [facts["reason"]] if facts["own"] else []
    if reasons:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another sweep's records are in it
            folder.parent.rmdir()
    if ended is not None:
        for number, (overrides, checked) in enumerate(jobs):
            state, _ = _state_of(checked)
            if state not in (*OVER, BEING_TRAINED):
                reasons.setdefault(number, (overrides, f"its process was ended; {state}"))
    if len(reasons) == len(jobs) == 1 and ended is None:
        raise OwnFault(faults[0]) if faults else Refusal(reasons[0][1])
    for number, (overrides, reason) in sorted(reasons.items()):
        complain(f"[job {number}] {' '.join(overrides)}: {reason}")
    counted = (
        f"{len(reasons)} of {len(jobs)} jobs"
        if max(reasons, default=0) < len(jobs)
        else f"{len(reasons)} jobs of the sweep"
    )
    said = f"{counted} failed; the same command tries them again, and passes over what is complete" + (
        f" (the launcher said: {str(ended)[:200]})" if ended else ""
    )
    if faults:
        complain(said)
        raise OwnFault(faults[0])
    if reasons:
        raise Refusal(said)
