"""What tracking lambda_1 every 20 steps of eos_cifar10_5k costs, in Hessian products and in time, and its
error against a converged computation from another start.

`python benchmarks/tracking.py [STEPS] [K]`; needs CIFAR-10. STEPS are all of the preset by default; K
eigenvalues, 1 by default, are tracked.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch
from common import experiment, table
from torch import Tensor

from sharpcli.engine.experiment import Experiment
from sharpcli.engine.measuring import measure_for_step
from sharpcli.engine.steps import advance
from sharpcli.engine.train import begin
from sharpcli.jsonl import Row
from sharpcli.linalg.lanczos import largest
from sharpcli.rng import generator

MEASURE_EVERY = 20  # steps
CHECK_EVERY = 100  # steps: every fifth measurement is checked, from a fresh random start


def checked(e: Experiment, w: Tensor, step: int, row: Row, k: int) -> tuple[float, bool]:
    """The largest error of a row's eigenvalues over lambda_1, and whether the stated errors cover all."""
    start = torch.randn(4, len(w), generator=generator(1, "check", step))
    truth = largest(e.surface_at(w).linearize(w).hvp, start, k, 5e-5, 240)
    measured = torch.tensor([row[f"lambda_{i + 1}"] for i in range(k)], dtype=torch.float64)
    stated = torch.tensor([row[f"lambda_{i + 1}_error"] for i in range(k)], dtype=torch.float64)
    errors = (measured - truth.values).abs()
    return float(errors.max() / truth.values[0]), bool((errors <= stated + truth.errors).all())


def main() -> None:
    """Trains, measures, checks, and prints the table."""
    arguments = [int(word) for word in sys.argv[1:]]
    k = arguments[1] if len(arguments) > 1 else 1
    e = experiment("experiment=eos_cifar10_5k", f"measure.sharpness.k={k}")
    steps = arguments[0] if arguments else e.steps
    lane, move, edge = begin(e), advance(e), e.optimizer.edge(e.lr)
    products: dict[bool, list[int]] = {True: [], False: []}  # by whether lambda_1 is below the edge
    gradients: dict[bool, list[float]] = {True: [], False: []}  # steps' time that a measurement takes
    errors, covered = [], []  # by check
    below_edge = True
    for step in range(0, steps + 1, MEASURE_EVERY):
        began = time.perf_counter()
        row, lane.warm, gradient = measure_for_step(e, lane.w, step, lane.warm, ["sharpness"])
        took = time.perf_counter() - began
        below_edge = below_edge and row["lambda_1"] < edge
        if step > 0:  # the first measurement has no warm start
            products[below_edge].append(row["sharpness_products"])
        if step % CHECK_EVERY == 0:
            error, is_covered = checked(e, lane.w, step, row, k)
            errors.append(error)
            covered.append(is_covered)
            print(
                f"step {step}  lambda_1 {row['lambda_1']:.4f}  error {error:.1e}  products "
                f"{row['sharpness_products']}",
                flush=True,
            )
        times = []  # of the steps after the measurement, the first of which has its gradient
        for number in range(MEASURE_EVERY if step < steps else 0):
            began = time.perf_counter()
            lane.w, lane.state, _ = move(lane.w, lane.state, step + number, step + number + 1, gradient)
            times.append(time.perf_counter() - began)
            gradient = None
        if times and step > 0:
            plain = statistics.median(times[1:])
            gradients[below_edge].append((took + times[0]) / plain - 1)
    rows = []
    for below, where, most, share in (
        (True, "before the edge", "<= 1.8", "<= 9 %"),
        (False, "at it", "<= 5", "<= 25 %"),
    ):
        if gradients[below]:
            mean, extra = statistics.mean(products[below]), statistics.median(gradients[below])
            rows += [
                (f"products a measurement {where}", f"{mean:.2f}", "less"),
                (f"steps' time a measurement {where}", f"{extra:.2f}", most),
                (f"share of the training time {where}", f"{100 * extra / MEASURE_EVERY:.0f} %", share),
            ]
    rows += [
        ("largest error of the checked over lambda_1", f"{max(errors):.1e}", "< 1e-3"),
        ("checked whose stated errors cover the truth", f"{sum(covered)}/{len(covered)}", "all"),
    ]
    table(f"{k} eigenvalues every {MEASURE_EVERY} steps, {steps:,} steps of eos_cifar10_5k", rows)


if __name__ == "__main__":
    main()
