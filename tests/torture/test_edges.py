"""Where numbers end: weights of zero, NaN or 1e30, one weight, one example, k = D, a flat loss, negative
curvature, learning rates that diverge at once. Every measure gives right numbers, says that there is none, or
refuses."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace

import pytest
import torch
import yaml

from sharpcli import CONF
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.folders import options
from sharpcli.engine.measuring import measure
from sharpcli.errors import Refusal
from torture import SHARDS, Hung, at_most_gigabytes, cases, draws, each, limit

POINTS_FULL = 250
COMMANDS_FULL = 250
SECONDS = 25.0
SECONDS_OF_A_COMMAND = (
    240.0  # a flow of a huge lr ends, or is refused, after 5,000 velocities: 110 s of matrices
)
# each problem small, then at its least; the whole Hessian is a matter of milliseconds
SIZES = {
    "deep_factorization": ("problem.d=3 problem.n=5", "problem.d=1 problem.n=1"),
    "hadamard": ("problem.d=6 problem.n=4", "problem.d=2 problem.n=1 problem.k=1"),
    "least_squares": ("problem.d=8 problem.n=5", "problem.d=1 problem.n=1", "problem.d=4 problem.n=1"),
    "matrix_factorization": ("problem.d=3 problem.n=9", "problem.d=1 problem.n=1 problem.rank=1"),
    "matrix_sensing": ("problem.d=3 problem.n=5", "problem.d=1 problem.n=1"),
    "network": (
        "data.train_examples=20 model.widths=[2]",
        "data.train_examples=20 model.widths=[2] model.activation=relu",
        "data.train_examples=20 model.widths=[1] loss=cross_entropy problem.dtype=float64",
        "data.train_examples=2 model.widths=[]",
    ),
    "quadratic": (
        "",
        "problem.eigenvalues=[1] problem.start=[1]",
        "problem.eigenvalues=[0] problem.start=[1]",
        "problem.eigenvalues=[-1,-2] problem.start=[1,0.5]",
        "problem.eigenvalues=[0,0,0] problem.start=[0,0,0]",
        "problem.eigenvalues=[1e300,1e-300] problem.start=[1,1]",
        "problem.eigenvalues=[1,1,1,1] problem.start=[1,1,1,1]",
    ),
    "quartic": ("", "problem.start=[0,0]"),
    "self_stabilization": ("", "problem.noise=0", "problem.start=[0,0]", "problem.start=[-1,1]"),
    "squares": ("problem.d=6 problem.n=4", "problem.d=2 problem.n=1 problem.k=1"),
    "teacher": (
        "problem.d=3 problem.n=6 problem.width=4",
        "problem.d=1 problem.n=1 problem.width=1 problem.neurons=1",
        "problem.d=3 problem.n=6 problem.width=4 problem.norm=batch",
    ),
    "two_well": ("", "problem.start=[0,0]"),
    "uv": ("problem.d=6 problem.n=4", "problem.d=1 problem.n=1 problem.k=1"),
    "valley": ("", "problem.start=[0,0]"),
    "xor": ("problem.d=3 problem.n=6 problem.width=4", "problem.d=2 problem.n=1 problem.width=1"),
}
MEASURES = options("measure")
WAYS = ("start", "zero", "tiny", "huge", "larger", "nan", "one nan", "inf", "far", "least")
ABOUT = re.compile(
    r"_(products|gradients|examples|seconds|not_finite|converged|reached|residual|error|stderr|tau|clock|"
    r"radius|rank|edge)$|^(step|rank|scores)$"
)
LAB = ("", "", "chunk=1", "measure_examples=1")
MORE: dict[str, tuple[dict, ...]] = {
    "sharpness": ({"k": 1000}, {"k": 2}, {"least": True}, {"tol": 1e-14}, {"max_products": 1}),
    "trace": ({"max_products": 8}, {"method": "xtrace"}, {"method": "hutchinson"}, {"rtol": 1e-9}),
    "density": ({"steps": 2, "probes": 2}, {"steps": 1000}),
    "projected": ({"steps": 50}, {"steps": 0}),
    "log_det": ({"cut": 0.5}, {"cut": 1e-15}),
}


def measure_of(name: str, draw):
    """A measure with its settings in conf/, sometimes with others."""
    values = yaml.safe_load((CONF / "measure" / f"{name}.yaml").read_text())[name]
    values.pop("every")
    values |= draw.choice(({}, *MORE.get(name, ())))
    return part(typed(values, f"measure.{name}", []), [], f"measure.{name}")


def point(way: str, w: torch.Tensor, draw, grad) -> torch.Tensor:
    """Weights at an edge."""
    rng = torch.Generator().manual_seed(draw.randrange(10**6))
    normal = torch.randn(w.shape, generator=rng, dtype=torch.float64).to(w)
    if way == "zero":
        return torch.zeros_like(w)
    if way == "tiny":
        return 1e-30 * normal
    if way == "huge":
        return 1e30 * normal
    if way == "larger":
        return 100 * normal
    if way == "nan":
        return w * math.nan
    if way in ("one nan", "inf"):
        out = w.clone()
        out[draw.randrange(len(w))] = math.nan if way == "one nan" else math.inf
        return out
    if way == "far":
        return w + 3 * normal
    if way == "least":
        for _ in range(50):
            w = w - 0.02 * grad(w)
    return w


class Exact:
    """Eigenvalues of the Hessian by torch.autograd alone, in the weights' own precision."""

    def __init__(self, problem, w: torch.Tensor) -> None:
        surface = problem.at(w)

        def mean(at):  # batch by batch: under batch norm the outputs of a batch depend on one another
            return sum(
                share * surface.loss(surface.predict(at, x), y)
                for share, (x, y) in surface.weighted_batches()
            )

        of = torch.autograd.functional.hessian(mean, w)
        self.is_finite = bool(torch.isfinite(of).all())
        self.eps = torch.finfo(w.dtype).eps
        self.eigenvalues = (
            torch.linalg.eigvalsh(of.double()) if self.is_finite else torch.full((1,), math.nan)
        )
        self.scale = float(self.eigenvalues.abs().max())
        self.trace = float(of.double().trace())

    def wrong(self, row: dict) -> str | None:
        """The first number of a row that is not this Hessian's by more than it states."""
        floor = 30 * self.eps * self.scale * len(self.eigenvalues) ** 0.5
        expected = {"lambda_1": self.eigenvalues[-1], "lambda_min": self.eigenvalues[0]}
        for key, value in expected.items():
            if (
                isinstance(row.get(key), float)
                and math.isfinite(row[key])
                and row.get("sharpness_converged", True)
            ):
                error = max(row.get(f"{key}_error") or 0.0, floor)
                if not abs(row[key] - float(value)) <= 3 * error:
                    return f"{key} = {row[key]} ± {row.get(f'{key}_error')}, and is {float(value)}"
        if isinstance(row.get("trace"), float) and math.isfinite(row["trace"]):
            error = max(
                row.get("trace_error") or row.get("trace_stderr") or 0.0, floor * len(self.eigenvalues) ** 0.5
            )
            if not abs(row["trace"] - self.trace) <= 6 * error:
                return f"trace = {row['trace']} ± {error}, and is {self.trace}"
        return None


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_measure_at_the_edges(experiment, shard):
    """All measures at one point: a case is a problem, a size, and a point."""

    def one(case: int) -> str | None:
        draw = draws("edge", case)
        names = list(SIZES)
        problem = names[case % len(names)]
        size, way, lab = draw.choice(SIZES[problem]), draw.choice(WAYS), draw.choice(LAB)
        base = [f"problem={problem}", *size.split(), *lab.split(), "method=gd", "lr=0.01", f"seed={case % 7}"]
        faults, exact = [], None
        try:
            whole = experiment(*base, "steps=10", "measure=[scores]")
            w = point(way, whole.problem.w0, draw, whole.problem.surface.grad)
        except Refusal:
            return None
        state = whole.optimizer.init(whole.problem.w0)
        for name in MEASURES:
            about = f"{' '.join(base)} at {way}: {name}"
            try:
                with limit(SECONDS), at_most_gigabytes(4):
                    e = replace(whole, measures={name: measure_of(name, draw)})
                    row, _ = measure(e, w, 3, {}, [name], state)
            except Refusal as refusal:
                if "\n" in str(refusal) or len(str(refusal)) > 600:
                    faults.append(f"{about}: a refusal of more than a line: {refusal}")
                continue
            except Hung as problem_:
                faults.append(f"{about}: {problem_}")
                continue
            except Exception as problem_:
                frames, at = [], problem_.__traceback__
                while at:
                    frames.append(f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}")
                    at = at.tb_next
                faults.append(
                    f"{about}: {type(problem_).__name__}: {str(problem_)[:200]} at {' '.join(frames[-5:])}"
                )
                continue
            if way in ("nan", "one nan") and name not in ("central_flow", "gradient_flow_distance"):
                numbers = {
                    key: value
                    for key, value in row.items()
                    if isinstance(value, float) and math.isfinite(value) and not ABOUT.search(key)
                }
                if numbers and way == "nan":
                    faults.append(f"{about}: numbers at weights that are none: {numbers}")
            elif name in ("sharpness", "trace") and "measure_examples" not in lab:
                exact = exact or Exact(e.problem, w)
                if exact.is_finite and (said := exact.wrong(row)):
                    faults.append(f"{about}: {said}")
        return "; ".join(faults) if faults else None

    each("edges", cases(POINTS_FULL, shard, SHARDS), one)


METHODS = [name for name in options("method") if name != "muon"]  # which takes matrices; most toys have none
RATES = (10, 3, 1e3, 1e300, 1e-320, 1e-8, 2.0, 100)


def words_of(case: int) -> list[str]:
    """A command that leaves the numbers that are in use."""
    draw = draws("command", case)
    fixed = [
        "lr=10 steps=40 measure_every=1 data.train_examples=60 model.widths=[6]",
        "model.activation=relu lr=3 data.train_examples=60 measure_every=1 model.widths=[20] steps=60",
        "problem=quadratic lr=1e300 steps=40 measure_every=1",
        "problem=quadratic steps=0",
        "problem=network problem.dtype=float16 data.train_examples=60 model.widths=[6] steps=4",
    ]
    if case < len(fixed):
        return ["train", *fixed[case].split()]
    problem = draw.choice(list(SIZES))
    methods = METHODS if problem not in ("network", "teacher", "xor") else ["gd", "sgd", "sam", "momentum"]
    words = [f"problem={problem}", *draw.choice(SIZES[problem]).split(), f"method={draw.choice(methods)}"]
    words += [f"lr={draw.choice(RATES):g}", f"steps={draw.choice([0, 1, 2, 40])}", "measure_every=1"]
    words += [f"measure=[{draw.choice(['scores,', ''])}{draw.choice(MEASURES)}]", f"seed={draw.randrange(4)}"]
    return ["train", *words, *draw.choice([[], [], ["replicas=2"], ["schedule=cosine"], ["batch_size=1"]])]


@pytest.mark.parametrize("shard", range(SHARDS))
def test_commands_that_leave_the_numbers_in_use_end_well(sharp, folder, monkeypatch, shard):
    def one(case: int) -> str | None:
        words = words_of(case)
        (folder / str(case)).mkdir(exist_ok=True)
        monkeypatch.chdir(folder / str(case))
        shown = "sharp " + " ".join(words)
        try:
            with limit(SECONDS_OF_A_COMMAND), at_most_gigabytes(4):
                said = sharp(*words)
                again = sharp(*words) if said.code == 0 else None
        except Hung as problem:
            return f"{shown}: {problem}"
        if said.code not in (0, 2) or "Traceback" in said.err:
            return f"{shown}: exit code {said.code}: {said.err[-1500:]}"
        if said.code == 2 and not any(line.startswith("sharp: ") for line in said.err.splitlines()):
            return f"{shown}: exit code 2 without a line: {said.err[-500:]}"
        if again is not None and (again.code != 0 or "already" not in again.out):
            return f"{shown}: the same again: {again.code} {again.out[-200:]} {again.err[-300:]}"
        if "nan" in said.out.lower() and "diverged" not in said.out:
            return f"{shown}: prints nan: {said.out[-300:]}"
        return None

    each("commands", cases(COMMANDS_FULL, shard, SHARDS), one)
