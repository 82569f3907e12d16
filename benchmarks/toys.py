"""What a compiled step of a toy costs: inside `sharp train` with recording, in a bare numba loop written
here, and in an eager PyTorch loop; and what a limiting flow costs. One core: run with OMP_NUM_THREADS=1."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import experiment, machine, table
from numba import njit

from sharpcli.commands.train import launch
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.theory import uv

STEPS, ROUNDS = 3_000_000, 3
UV = [
    "problem=uv",
    "problem.d=100",
    "problem.n=40",
    "problem.k=5",
    "problem.start=1",
    "lr=0.001",
    "threads=1",
]
NOISE = ["method=label_noise", "batch_size=1", "replacement=true", "objective.label_noise.delta=1"]


@njit(fastmath=True)
def bare(u, v, Z, y, lr, delta, steps):  # type: ignore[no-untyped-def]
    """The same steps with numba's own generator, and nothing recorded."""
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
    """The same loop as it is usually written."""
    for _ in range(steps):
        i = torch.randint(len(y), ())
        sign = torch.randint(2, ()) * 2 - 1
        loss = 0.5 * (Z[i] @ (u * u - v * v) - y[i] - delta * sign) ** 2
        du, dv = torch.autograd.grad(loss, (u, v))
        with torch.no_grad():
            u -= lr * du
            v -= lr * dv


def trained(words: list[str], steps: int, folder: str) -> float:
    """Nanoseconds a step of a whole `sharp train` after building, recording 100 rows."""
    words = [
        *words,
        f"steps={steps}",
        "measure=[scores,norms]",
        "measure_every=even 101",
        f"runs_dir={folder}",
    ]
    build(check(compose(words), words))  # compiles, or reads what was compiled
    return trained_seconds(words, folder) / steps * 1e9


def trained_seconds(words: list[str], folder: str) -> float:
    """Seconds of a run in `folder` without building, as its last row says."""
    launch(check(compose(words), words), words)
    (run,) = Path(folder).glob("*/metrics.jsonl")
    return json.loads(run.read_text().splitlines()[-1])["seconds"]


def step_time(words: list[str], steps: int) -> float:
    """Microseconds a compiled step, without recording."""
    from sharpcli.engine.steps import compiled

    e = experiment(*words)
    run, w = compiled(e), e.problem.w0.numpy().copy()
    assert run is not None
    run.run(w, np.zeros_like(w), 0, 1000)
    started = time.perf_counter()
    run.run(w, np.zeros_like(w), 1000, 1000 + steps)
    return (time.perf_counter() - started) / steps * 1e6


def main() -> None:
    """See the top."""
    torch.set_num_threads(1)
    x, y = (part.numpy() for part in experiment(*UV, "method=gd").problem.examples)
    y = y[:, 0].copy()
    bare(np.ones(100), np.ones(100), x, y, 1e-3, 1.0, 10)
    ours, theirs = [], []
    for _ in range(ROUNDS):  # in turn, on the same work
        with tempfile.TemporaryDirectory() as folder:
            ours.append(trained([*UV, *NOISE], STEPS, folder))
        u, v, started = np.ones(100), np.ones(100), time.perf_counter()
        bare(u, v, x, y, 1e-3, 1.0, STEPS)
        theirs.append((time.perf_counter() - started) / STEPS * 1e9)
    u, v = (torch.ones(100, dtype=torch.float64, requires_grad=True) for _ in range(2))
    started = time.perf_counter()
    eager(u, v, torch.from_numpy(x), torch.from_numpy(y), 1e-3, 1.0, 3000)
    slow = (time.perf_counter() - started) / 3000 * 1e9
    our, their = statistics.median(ours), statistics.median(theirs)
    table(
        "batch-1 label noise, (u, v), d = 100, n = 40, 3,000,000 steps",
        [
            ("ns a step, sharp train with 100 rows recorded", f"{our:.0f}", "<= 100"),
            ("ns a step, bare numba loop", f"{their:.0f}", "-"),
            ("the first over the second", f"{our / their:.2f}", "<= 1.6"),
            ("eager PyTorch over sharp train", f"{slow / our:.0f}", ">= 2000"),
        ],
    )
    spent = {}
    for threads in (1, 2, 1, 2):
        with tempfile.TemporaryDirectory() as folder:
            words = [
                *UV[:-1],
                *NOISE,
                f"threads={threads}",
                "replicas=256",
                "steps=200000",
                "measure=[scores]",
            ]
            spent[threads] = trained_seconds([*words, "measure_every=even 2", f"runs_dir={folder}"], folder)
    torch.set_num_threads(1)
    table("256 replicas", [("throughput of two threads over one", f"{spent[1] / spent[2]:.2f}", ">= 1.8")])
    rows = []
    for name, words, wanted in (
        ("matrix sensing, d = 10, n = 50", ["problem=matrix_sensing", "lr=0.002"], "<= 2.5"),
        ("depth 3, d = 8, n = 40", ["problem=deep_factorization", "lr=0.002"], "<= 2.5"),
        ("ReLU, d = 8, h = 50", ["problem=teacher", "lr=0.01"], "<= 1.5"),
    ):
        rows.append((f"us a step, {name}", f"{step_time([*words, *NOISE], 200_000):.2f}", wanted))
    table("batch-1 label noise, other toys", rows)
    e = experiment(
        "problem=uv",
        "problem.d=20",
        "problem.n=8",
        "method=limiting_flow",
        "lr=4",
        "steps=1",
        "optimizer.rtol=1e-8",
    )
    w0 = e.problem.w0
    e.optimizer.step(w0, e.optimizer.init(w0), e.problem.surface, 0.1)
    started = time.perf_counter()
    w, _ = e.optimizer.step(w0, e.optimizer.init(w0), e.problem.surface, 4.0)
    spent = time.perf_counter() - started
    Z, right = (part.numpy() for part in e.problem.examples)
    closed = np.concatenate(uv.flow(*np.split(w0.numpy(), 2), Z, right[:, 0], 4.0))
    rows = [
        ("seconds to T = 4", f"{spent:.2f}", "< 1"),
        ("error", f"{np.abs(w.numpy() - closed).max():.0e}", "<= 1e-7"),
    ]
    table("limiting flow of the trace, (u, v), d = 20, n = 8, rtol 1e-8", rows)
    print(machine())


if __name__ == "__main__":
    main()
