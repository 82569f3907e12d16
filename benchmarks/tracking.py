"""The Hessian products that tracking lambda_1 every 20 steps of eos_cifar10_5k costs, and its error against a
converged computation from another start.

`python benchmarks/tracking.py [STEPS]`; needs CIFAR-10. STEPS are all of the preset by default.
"""

from __future__ import annotations

import sys

import torch
from common import experiment, table
from torch import Tensor

from sharpcli.engine.experiment import Experiment
from sharpcli.engine.measuring import measure
from sharpcli.engine.train import begin
from sharpcli.jsonl import Row
from sharpcli.linalg.lanczos import largest
from sharpcli.rng import generator

MEASURE_EVERY = 20  # steps
CHECK_EVERY = 100  # steps: every fifth measurement is checked, from a fresh random start


def checked(e: Experiment, w: Tensor, step: int, row: Row) -> tuple[float, bool]:
    """The relative error of a row's lambda_1, and whether the stated error covers it."""
    start = torch.randn(4, len(w), generator=generator(1, "check", step))
    truth = largest(e.surface_at(w).linearize(w).hvp, start, 1, 5e-5, 120)
    error = abs(row["lambda_1"] / float(truth.values[0]) - 1)
    return error, error <= (row["lambda_1_error"] + float(truth.errors[0])) / row["lambda_1"]


def main() -> None:
    """Trains, measures, checks, and prints the table."""
    e = experiment("experiment=eos_cifar10_5k")
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else e.steps
    lane, edge = begin(e), e.optimizer.edge(e.lr)
    products, products_below_edge = [], []  # by measurement
    errors, covered = [], []  # by check
    below_edge = True
    for step in range(steps + 1):
        if step % MEASURE_EVERY == 0:
            row, lane.warm, lane.gradient = measure(e, lane.w, step, lane.warm, ["sharpness"])
            below_edge = below_edge and row["lambda_1"] < edge
            products.append(row["sharpness_products"])
            if below_edge and step > 0:  # the first measurement has no warm start
                products_below_edge.append(row["sharpness_products"])
            if step % CHECK_EVERY == 0:
                error, is_covered = checked(e, lane.w, step, row)
                errors.append(error)
                covered.append(is_covered)
                print(
                    f"step {step}  lambda_1 {row['lambda_1']:.4f}  error {error:.1e}  products "
                    f"{row['sharpness_products']}",
                    flush=True,
                )
        lane.w, lane.state = e.optimizer.step(lane.w, lane.state, e.problem.surface.grad, e.lr)
    below = sum(products_below_edge) / len(products_below_edge)
    table(
        f"lambda_1 every {MEASURE_EVERY} steps, {steps:,} steps of eos_cifar10_5k",
        [
            ("products a measurement before the edge", f"{below:.2f}", "<= 3"),
            ("products a measurement over the run", f"{sum(products) / len(products):.2f}", "<= 8"),
            ("largest relative error of the checked", f"{max(errors):.1e}", "< 1e-3"),
            ("checked whose stated error covers the truth", f"{sum(covered)}/{len(covered)}", "all"),
        ],
    )


if __name__ == "__main__":
    main()
