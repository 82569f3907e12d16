"""The rows that `sharp plot landscape` and `sharp plot connect` draw: losses on a line, on a plane and along
curves in weight space. They are computed once, kept in the run, and carried on where that was interrupted.

Points are cheap and many: every one is written as soon as it is there. What they are of (the checkpoints'
bytes, the settings) is in the name of the file, so that another question is another file, and the answer to
the same question needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from sharpcli.commands.measure import (
    Options,
    Subject,
    checked_again,
    checked_file,
    checkpoints,
    of_file,
    of_run,
)
from sharpcli.commands.progress import progress
from sharpcli.commands.report import complain
from sharpcli.config.settings import LOCAL
from sharpcli.errors import Interrupted, Refusal, signals
from sharpcli.jsonl import Row, append, read_rows, replace, writing
from sharpcli.jsonl.files import no_link, read
from sharpcli.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from sharpcli.engine.experiment import Experiment
    from sharpcli.landscape.distributed import Processes

FOLDER = "landscapes"
MARGIN = 0.25  # beyond the outermost point of a trajectory, as a share of its extent
AT_ONCE = 64  # points that are evaluated together, where the loss allows it
PLANE, LINE, PATH = ("a", "b", "loss"), ("a", "loss"), ("t", "loss")  # numbers of a row
Directions = Literal["random", "eigenvectors", "trajectory", "checkpoints"]
Curve = Literal["line", "bezier", "chain"]  # of landscape/paths.py, which needs torch


@dataclass(frozen=True)
class Asked:
    """What the command named: runs or files of weights, and settings of how to measure them."""

    runs: Sequence[Run]
    files: Sequence[Path]
    overrides: Sequence[str]

    def points(self, steps: Sequence[int | None]) -> list[tuple[Run | Path, int]]:
        """The points in weight space that are meant: of each run its last checkpoint, or of a single run
        those at `steps`; and each file."""
        out: list[tuple[Run | Path, int]] = []
        for run in self.runs:
            run.refuse_altered()
            if run.is_watched or run.replicas > 1:
                raise Refusal(f"{run.name}: name a run of sharp train without replicas, or a file of weights")
            for step in steps if len(self.runs) + len(self.files) == 1 else [None]:
                saved = checkpoints(run, "" if step is None else str(step))
                out.append((run, saved[-1]))
        return [*out, *((file, 0) for file in self.files)]

    def key(self, points: Sequence[tuple[Run | Path, int]], settings: Mapping[str, Any]) -> str:
        """16 hex digits of everything that the numbers depend on."""
        of: list[list[Any]] = []
        for thing, step in points:
            if isinstance(thing, Run):
                saved = read(thing.path / "checkpoints" / f"step_{step:08d}.pt")
            else:
                saved = read(thing)
            of.append([step, hashlib.sha256(saved).hexdigest()])
        if self.files:  # a run knows its data
            checked = checked_file(self.overrides)
            of.append([checked.local["data_dir"], checked.contents_key])
        of += [[run.hash] for run in self.runs]
        local = tuple(f"{name}=" for name in LOCAL)
        how = [o for o in self.overrides if not o.startswith(local)]
        return hashlib.sha256(json.dumps([of, how, dict(settings)], default=str).encode()).hexdigest()[:16]

    def place(self, key: str) -> Path:
        """The file of the rows, in the first run or beside the first file; its folder is made."""
        first = self.runs[0].path if self.runs else self.files[0].parent
        folder = first / FOLDER
        with writing(folder):
            no_link(folder)
            folder.mkdir(exist_ok=True)
        return folder / f"{key}.jsonl"

    def weights(
        self, steps: Mapping[Path, Sequence[int]], group: Processes, every: bool = True
    ) -> tuple[Experiment, list[tuple[int, Tensor]]]:
        """The experiment of the first run or file, and the step and weights of each point. Refuses networks
        of other sizes or data, and where `every` point is needed a checkpoint that cannot be read."""
        subjects = list(self.subjects(steps, group))
        points = [list(subject.points) for subject in subjects]
        weights = [(p.step, p.w) for of_subject in points for p in of_subject]
        _alike(subjects, [of_subject[-1].w if of_subject else None for of_subject in points])
        wanted = len(self.files) + sum(map(len, steps.values()))
        if not weights or (every and len(weights) < wanted):
            raise Refusal(
                f"{subjects[0].name}: a checkpoint that is needed cannot be read; name another step"
            )
        return subjects[0].experiment, weights

    def subjects(self, steps: Mapping[Path, Sequence[int]], group: Processes) -> Iterator[Subject]:
        """Each run at its steps, and each file, as for `sharp measure`."""
        for run in self.runs:
            again = checked_again(run, [*self.overrides, "measure=[scores]"])
            yield of_run(run, again, steps[run.path], ["sharp", "plot", run.name], group, Options())
        for file in self.files:
            yield of_file(file, [*self.overrides, "measure=[scores]"], group, Options())


class Answer:
    """The rows of one question, read from its file or added to it; `about`, what else a picture says."""

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        """The rows that have a number, or null, in each of the `columns`; others are as if they were not."""
        self.file = file
        self.rows: dict[int, Row] = {
            row["step"]: row
            for row in read_rows(file)[0]
            if all(key in row and isinstance(row[key], int | float | None) for key in columns)
        }
        self.notes = file.with_suffix(".json")

    @property
    def about(self) -> dict[str, Any] | None:
        """What was kept beside the rows; None where nothing is, or other bytes than were written."""
        try:
            kept = json.loads(read(self.notes))
            text = json.dumps(kept["about"])
            return dict(kept["about"]) if kept["crc32"] == zlib.crc32(text.encode()) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def describe(self, about: Mapping[str, Any]) -> None:
        """Keeps what the picture says beside its points."""
        with writing(self.notes):
            kept = {"about": dict(about), "crc32": zlib.crc32(json.dumps(dict(about)).encode())}
            replace(self.notes, json.dumps(kept).encode())

    def add(self, *rows: Row) -> None:
        """Adds rows; `step` is the number of a point."""
        with writing(self.file):
            append(self.file, *rows)
        self.rows |= {row["step"]: row for row in rows}

    def frame(self, name: str) -> pd.DataFrame:
        """The rows in their order; `attrs` is what was kept beside them."""
        frame = pd.DataFrame([self.rows[k] for k in sorted(self.rows)]).assign(run=name)
        about: dict[Any, Any] = {"notes": [], "settings": [], **(self.about or {})}
        frame.attrs = about
        return frame


def plane(
    asked: Any,
    *,
    directions: Directions,
    dimensions: int,
    points: int,
    span: float | None,
    step: int | None,
    through: list[int] | None,
    seed: int,
) -> pd.DataFrame:
    """L(w + a u + b v) on `points` values of a (and, in two `dimensions`, of b): a row for each point, with
    `a`, `b` and `loss`, by the problem's policy for batch norm at every point.

    `directions`: `random`, two Gaussian directions with the filters' norms of w (Li et al. 2018,
    arXiv:1712.09913), drawn by `seed`; `eigenvectors`, those of lambda_1 and lambda_2; `trajectory`, the
    principal plane of w_t - w over the run's checkpoints; `checkpoints`, the plane through three points:
    three runs, three files, or three steps `through` of a run. w is the last checkpoint, or that at `step`.
    `span` is how far a and b go to either side: null for 1 along random directions, for as far as the loss
    rises by 1 by its curvature along eigenvectors, and for the points' extent and a quarter more.

    Refuses points below 3, and another number of points in weight space than the directions need."""
    _check_plane(asked, directions, dimensions, points, span, step, through)
    at = asked.points(through or (step,))
    steps = {run.path: [s for thing, s in at if thing is run] for run in asked.runs}
    if directions == "trajectory":
        steps = {run.path: run.checkpoints() for run in asked.runs}
    settings: dict[str, Any] = {
        "directions": directions,
        "dimensions": dimensions,
        "points": points,
        "span": span,
    }
    settings |= {"seed": seed, "steps": list(steps.values())}
    used = [(run, s) for run in asked.runs for s in steps[run.path]] + at[len(at) - len(asked.files) :]
    answer = Answer(asked.place(asked.key(used, settings)), PLANE if dimensions == 2 else LINE)
    name = at[0][0].name
    if len(answer.rows) == points**dimensions and answer.about is not None:
        return answer.frame(name)
    with _Computing() as group:
        import torch

        from sharpcli.engine.landscapes import chosen, losses_at
        from sharpcli.landscape import planes

        experiment, weights = asked.weights(steps, group, every=directions != "trajectory")
        origin = weights[0][1]
        if directions == "trajectory":
            if at[0][1] not in dict(weights):
                raise Refusal(f"{name}: checkpoint {at[0][1]} cannot be read; give another step=")
            origin = dict(weights)[at[0][1]]
        trail = weights if directions in ("trajectory", "checkpoints") else []
        basis, said, spans, more = chosen(experiment, origin, trail, directions, dimensions, seed)
        lengths = [span] * dimensions if span is not None else spans
        drawn = planes.coordinates(torch.stack([w for _, w in trail]), origin, basis) if trail else None
        axes = [np.linspace(-r, r, points) for r in lengths or [1.0] * dimensions]
        if drawn is not None and span is None:
            axes = [_extent(drawn[:, i].tolist(), points) for i in range(dimensions)]
        trajectory = (
            [] if drawn is None else [[s, *c] for (s, _), c in zip(trail, drawn.tolist(), strict=True)]
        )
        loss = float(experiment.surface_at(origin).value(origin))
        answer.describe(
            {
                "axes": said,
                "trajectory": trajectory,
                "joined": directions == "trajectory",
                "loss": loss,
                "step": at[0][1],
                "of": name,
            }
            | more
        )
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dimensions)
        missing = [k for k in range(len(grid)) if k not in answer.rows]
        with progress(len(grid), len(grid) - len(missing), ["loss"], "landscape: ", "point") as tell:
            for start in range(0, len(missing), AT_ONCE):
                some = missing[start : start + AT_ONCE]
                for k, value in zip(some, losses_at(experiment, origin, basis, grid[some]), strict=False):
                    row = {"step": k, **dict(zip("ab", map(float, grid[k]), strict=False)), "loss": value}
                    answer.add(row)
                    tell(len(answer.rows), row)
    return answer.frame(name)


def path(
    asked: Any,
    *,
    curves: list[Curve],
    points: int,
    between: list[int] | None,
    match: bool,
    fit_steps: int,
    lr: float,
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """L along curves from the first of two minima to the second: a row for each of `points` values of `t` in
    [0, 1] on each of the `curves`, with `curve`, `t` and `loss`. `line` is straight; the middle point of a
    `bezier` curve and of a `chain` of two lines is fitted so that the mean loss along it is low (Garipov et
    al. 2018, arXiv:1802.10026), in `fit_steps` steps of Adam on batches of `batch_size` examples with step
    size `lr` times the root mean square of w_2 - w_1.

    The minima are the ends of two runs, two files of weights, or the steps `between` of one run. With
    `match`, the second's hidden units (neurons, channels) are first permuted to lie nearest to the first's
    (Ainsworth et al. 2023, arXiv:2209.04836), as rows of their own: `line, matched`. `barriers` in `attrs`
    holds for each curve the largest excess of the loss over the line between the losses at the ends, where it
    is, and its error.

    Refuses other than two minima, ends of other networks or data, and `match` where no two units of the
    network can change places without changing its outputs."""
    named = len(asked.runs) + len(asked.files)
    if (between is None and named != 2) or (between is not None and (named != 1 or len(between) != 2)):
        steps_said = "no between=" if between is None else f"between={between}"
        raise Refusal(
            f"connect takes two different runs or files, or a run and between=[STEP,STEP]; these are "
            f"{named} and {steps_said}"
        )
    if points < 3 or fit_steps < 1 or not lr > 0 or batch_size < 1 or not curves:
        raise Refusal("connect: points at least 3, fit_steps and batch_size at least 1, lr above 0, a curve")
    for run in asked.runs:
        if run.status == "diverged":
            complain(f"{run.name}: diverged; its last weights are no minimum")
    at = asked.points(between or (None,))
    steps = {run.path: [s for thing, s in at if thing is run] for run in asked.runs}
    settings: dict[str, Any] = {
        "curves": curves,
        "points": points,
        "steps": list(steps.values()),
        "match": match,
    }
    settings |= {"fit": [fit_steps, lr, batch_size, seed]}
    if "chain" in curves and points % 2 == 0:
        settings["places"] = "t = 1/2"  # among them: what was computed without it is not taken for this
    answer = Answer(asked.place(asked.key(at, settings)), PATH)
    name = " - ".join(thing.name + (f" step {s}" if between else "") for thing, s in at)
    kinds = [(curve, is_matched) for is_matched in ((False, True) if match else (False,)) for curve in curves]
    if len(answer.rows) == points * len(kinds) and answer.about is not None:
        return answer.frame(name)
    with _Computing() as group:
        from sharpcli.engine.landscapes import along, fitted, matched_to
        from sharpcli.landscape import paths

        experiment, weights = asked.weights(steps, group)
        first, last = weights[0][1], weights[1][1]
        if float((last - first).norm()) == 0:
            raise Refusal(f"{name}: the two minima are the same weights")
        barriers: dict[str, Any] = {}
        for i, (curve, is_matched) in enumerate(kinds):
            said = f"{curve}, matched" if is_matched else curve
            numbers, ts = range(i * points, (i + 1) * points), paths.places(curve, points)
            if not all(k in answer.rows for k in numbers):
                end = matched_to(experiment, last, first, complain) if is_matched else last
                with progress(fit_steps, 0, ["loss"], f"{said}: ") as tell:
                    told = partial(_tell_loss, tell)
                    middle = fitted(experiment, curve, first, end, fit_steps, lr, batch_size, seed, told)
                points_along = along(experiment, curve, first, middle, end, ts)
                for k, t, (_, value) in zip(numbers, ts, points_along, strict=True):
                    answer.add({"step": k, "curve": said, "t": t, "loss": value})
            losses = [answer.rows[k]["loss"] for k in numbers]
            losses = [float("nan") if value is None else value for value in losses]
            barriers[said] = paths.barrier(ts, losses)._asdict()
            answer.describe({"barriers": barriers, "of": name})
    return answer.frame(name)


class _Computing(ExitStack):
    """Within it signals are raised and say that what is computed is kept; it gives the group of processes."""

    def __enter__(self) -> Any:
        super().__enter__()
        from sharpcli.engine.experiment import forget_data
        from sharpcli.landscape.distributed import processes

        forget_data()
        self.enter_context(signals.raised())
        return self.enter_context(processes())

    def __exit__(self, kind: Any, problem: Any, trace: Any) -> None:
        try:
            super().__exit__(kind, problem, trace)
            if isinstance(problem, KeyboardInterrupt):
                raise problem
        except KeyboardInterrupt as interrupt:
            signum = signals.number_of(interrupt)
            raise Interrupted(
                f"{signals.how(signum)}; the points so far are kept, and the same command goes on", signum
            ) from None


def _check_plane(
    asked: Asked,
    directions: Directions,
    dimensions: int,
    points: int,
    span: float | None,
    step: int | None,
    through: list[int] | None,
) -> None:
    """Refuses settings of a plane that contradict one another."""
    named = len(asked.runs) + len(asked.files)
    wanted = 3 if directions == "checkpoints" else 1
    if through is not None and (directions != "checkpoints" or len(through) != wanted or named != 1):
        raise Refusal(f"through={through}: three steps of a single run, with directions=checkpoints")
    if named != wanted and through is None:
        what = "three runs or files, or a run and through=[STEP,STEP,STEP]" if wanted == 3 else "a single run"
        raise Refusal(f"directions={directions}: takes {what}, and these are {named}")
    if directions == "trajectory" and not asked.runs:
        raise Refusal("directions=trajectory: a file of weights has no trajectory; name a run")
    if points < 3:
        raise Refusal(f"points={points}: at least 3 along each direction")
    if dimensions not in (1, 2):
        raise Refusal(f"dimensions={dimensions}: 1 or 2, for a curve or a map")
    if span is not None and not span > 0:
        raise Refusal(f"span={span}: the distance to both sides of the weights, above 0; null chooses it")
    if step is not None and (not asked.runs or directions == "checkpoints"):
        raise Refusal(f"step={step}: chooses a checkpoint of a single run; through= chooses three")
    if dimensions == 1 and directions in ("trajectory", "checkpoints"):
        raise Refusal(f"directions={directions}: a plane; take dimensions=2, or sharp plot connect")


def _alike(subjects: Sequence[Subject], weights: Sequence[Tensor | None]) -> None:
    """Refuses points of networks of other sizes, of other data, or of another loss at the same `weights`,
    some of each subject's."""
    from sharpcli.engine.landscapes import have_one_loss

    first = subjects[0].experiment
    for subject, w in zip(subjects[1:], weights[1:], strict=True):
        other = subject.experiment
        if other.problem.layout != first.problem.layout or len(other.problem.w0) != len(first.problem.w0):
            raise Refusal(f"{subject.name}: other weights than {subjects[0].name}, of another model")
        if other.data_hash != first.data_hash:
            raise Refusal(f"{subject.name}: trained on other examples than {subjects[0].name}")
        if w is not None and not have_one_loss(first, other, w):
            raise Refusal(
                f"{subject.name}: at its weights the loss of {subjects[0].name} is another: the two differ "
                f"in their model, their loss or in parameters that are not trained; name runs that do not"
            )


def _tell_loss(tell: Any, step: int, value: float) -> None:
    tell(step, {"step": step, "loss": value})


def _extent(values: Sequence[float], points: int) -> np.ndarray:
    low, high = min(values), max(values)
    room = MARGIN * (high - low) or 1.0
    return np.linspace(low - room, high + room, points)
