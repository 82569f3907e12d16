"""The cost of a compiled step of a toy inside `sharp train` with rows recorded, in a numba loop that records
nothing, and in an eager PyTorch loop; and the cost of a limiting flow.

`OMP_NUM_THREADS=1 python benchmarks/toys.py [STEPS]`, for one core; STEPS are 3,000,000 by default.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import experiment, machine, table
from numba import njit

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.engine.launch import launch
from sharpcli.engine.steps import compiled
from sharpcli.theory import uv

STEPS = 3_000_000  # of the compiled loops
ROUNDS = 3  # of which the median is taken
EAGER_STEPS = 3000  # of the eager loop, a thousand times slower
D, LR, DELTA = 100, 1e-3, 1.0  # of the (u, v) model; its label noise is +-DELTA
UV = ["problem=uv", f"problem.d={D}", "problem.n=40", "problem.k=5", "problem.start=1", f"lr={LR}"]
NOISE = ["method=label_noise", "batch_size=1", "replacement=true", "objective.label_noise.delta=1"]


@njit(fastmath=True)
def bare(u, v, Z, y, lr, delta, steps):  # type: ignore[no-untyped-def]
    """The same steps of label noise with numba's random numbers; nothing is recorded."""
    n, d = Z.shape
    for _ in range(steps):
        i = np.random.randint(0, n)
        r = -y[i] - (delta if np.random.random() < 0.5 else -delta)
        for j in range(d):
            r += (u[j] * u[j] - v[j] * v[j]) * Z[i, j]
        for j in range(d):
            u[j] -= 2 * lr * r * u[j] * Z[i, j]
            v[j] += 2 * lr * r * v[j] * Z[i, j]


def eager(
    u: torch.Tensor, v: torch.Tensor, Z: torch.Tensor, y: torch.Tensor, lr: float, delta: float, steps: int
) -> None:
    """The same steps as they are usually written in PyTorch."""
    for _ in range(steps):
        i = torch.randint(len(y), ())
        sign = torch.randint(2, ()) * 2 - 1
        loss = 0.5 * (Z[i] @ (u * u - v * v) - y[i] - delta * sign) ** 2
        du, dv = torch.autograd.grad(loss, (u, v))
        with torch.no_grad():
            u -= lr * du
            v -= lr * dv


def train_step_ns(overrides: list[str], steps: int) -> float:
    """Nanoseconds a step of a whole `sharp train` after building, with 100 rows recorded."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*overrides, f"steps={steps}", "measure=[scores,norms]", "measure_every=even 101"]
        overrides = [*overrides, f"runs_dir={folder}"]
        build(check(compose(overrides), overrides))  # compiles, or reads what was compiled before
        return train_seconds(overrides, folder) / steps * 1e9


def train_seconds(overrides: list[str], folder: str) -> float:
    """Seconds of a run in `folder` without building, as its last row states them."""
    launch(check(compose(overrides), overrides), overrides)
    (metrics,) = Path(folder).glob("*/metrics.jsonl")
    return json.loads(metrics.read_text().splitlines()[-1])["seconds"]


def compiled_step_us(overrides: list[str], steps: int) -> float:
    """Microseconds a compiled step, without any row recorded."""
    e = experiment(*overrides)
    toy_steps, w = compiled(e), e.problem.w0.numpy().copy()
    assert toy_steps is not None
    toy_steps.run(w, np.zeros_like(w), 0, 1000, e.schedule.between(0, 1000))  # does not count
    lrs = e.schedule.between(1000, 1000 + steps)
    started = time.perf_counter()
    toy_steps.run(w, np.zeros_like(w), 1000, 1000 + steps, lrs)
    return (time.perf_counter() - started) / steps * 1e6


def label_noise(steps: int) -> None:
    """Prints the table of `sharp train`, the bare loop and the eager loop, timed in turn on the same work."""
    x, y = (part.numpy() for part in experiment(*UV, "method=gd").problem.examples)
    y = y[:, 0].copy()
    bare(np.ones(D), np.ones(D), x, y, LR, DELTA, 10)  # compiles
    of_sharp, of_bare = [], []
    for _ in range(ROUNDS):
        of_sharp.append(train_step_ns([*UV, *NOISE, "threads=1"], steps))
        u, v, started = np.ones(D), np.ones(D), time.perf_counter()
        bare(u, v, x, y, LR, DELTA, steps)
        of_bare.append((time.perf_counter() - started) / steps * 1e9)
    u, v = (torch.ones(D, dtype=torch.float64, requires_grad=True) for _ in range(2))
    started = time.perf_counter()
    eager(u, v, torch.from_numpy(x), torch.from_numpy(y), LR, DELTA, EAGER_STEPS)
    eager_ns = (time.perf_counter() - started) / EAGER_STEPS * 1e9
    sharp_ns, bare_ns = statistics.median(of_sharp), statistics.median(of_bare)
    table(
        f"batch-1 label noise, (u, v), d = {D}, n = 40, {steps:,} steps",
        [
            ("ns a step, sharp train with 100 rows recorded", f"{sharp_ns:.0f}", "<= 100"),
            ("ns a step, bare numba loop", f"{bare_ns:.0f}", "-"),
            ("the first over the second", f"{sharp_ns / bare_ns:.2f}", "<= 1.6"),
            ("eager PyTorch over sharp train", f"{eager_ns / sharp_ns:.0f}", ">= 2000"),
        ],
    )


def replicas(steps: int) -> None:
    """Prints what a second thread gains for 256 replicas; the first run of each number of threads does not
    count."""
    spent = {}
    for threads in (1, 2, 1, 2):
        with tempfile.TemporaryDirectory() as folder:
            overrides = [
                *UV,
                *NOISE,
                f"threads={threads}",
                "replicas=256",
                f"steps={steps}",
                "measure=[scores]",
            ]
            spent[threads] = train_seconds([*overrides, "measure_every=even 2", f"runs_dir={folder}"], folder)
    torch.set_num_threads(1)
    table("256 replicas", [("throughput of two threads over one", f"{spent[1] / spent[2]:.2f}", ">= 1.8")])


def other_toys(steps: int) -> None:
    """Prints the cost of a compiled step of other toys."""
    toys = (
        ("matrix sensing, d = 10, n = 50", ["problem=matrix_sensing", "lr=0.002"], "<= 2.5"),
        ("depth 3, d = 8, n = 40", ["problem=deep_factorization", "lr=0.002"], "<= 2.5"),
        ("ReLU, d = 8, h = 50", ["problem=teacher", "lr=0.01"], "<= 1.5"),
    )
    times = [compiled_step_us([*overrides, *NOISE], steps) for _, overrides, _ in toys]
    table(
        "batch-1 label noise, other toys",
        [
            (f"us a step, {name}", f"{us:.2f}", wanted)
            for (name, _, wanted), us in zip(toys, times, strict=True)
        ],
    )


def limiting_flow() -> None:
    """Prints the cost of the limiting flow to tau = 4, and its error against the closed form."""
    toy = ["problem=uv", "problem.d=20", "problem.n=8"]
    e = experiment(*toy, "method=limiting_flow", "lr=4", "steps=1", "optimizer.rtol=1e-8")
    w0, surface = e.problem.w0, e.problem.surface
    e.optimizer.step(w0, e.optimizer.init(w0), surface, 0.1)  # does not count
    started = time.perf_counter()
    w, _ = e.optimizer.step(w0, e.optimizer.init(w0), surface, 4.0)
    spent = time.perf_counter() - started
    Z, y = (part.numpy() for part in e.problem.examples)
    closed_form = np.concatenate(uv.flow(*np.split(w0.numpy(), 2), Z, y[:, 0], 4.0))
    table(
        "limiting flow of the trace, (u, v), d = 20, n = 8, rtol 1e-8",
        [
            ("seconds to T = 4", f"{spent:.2f}", "< 1"),
            ("error", f"{np.abs(w.numpy() - closed_form).max():.0e}", "<= 1e-7"),
        ],
    )


def main() -> None:
    """Prints all tables."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    torch.set_num_threads(1)
    label_noise(steps)
    replicas(steps // 15)
    other_toys(steps // 15)
    limiting_flow()
    print(machine())


if __name__ == "__main__":
    main()
