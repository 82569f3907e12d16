"""Hessian products that tracking lambda_1 every 20 steps costs on eos_cifar10_5k, and its error against a
converged solve."""

from __future__ import annotations

import torch
from common import experiment, table

from sharpcli.engine.measuring import measure
from sharpcli.engine.train import begin
from sharpcli.linalg.lanczos import largest
from sharpcli.rng import generator

CHECK_EVERY = 100  # steps: every fifth measurement is checked, from a fresh random start

e = experiment("experiment=eos_cifar10_5k")
here, edge = begin(e), e.optimizer.edge(e.lr)
products, errors, before = [], [], True
for step in range(e.steps + 1):
    if step % 20 == 0:
        row, here.warm = measure(e, here.w, step, here.warm, ["sharpness"])
        before = before and row["lambda_1"] < edge
        products.append((row["sharpness_products"], before))
        if step % CHECK_EVERY == 0:
            start = torch.randn(4, len(here.w), generator=generator(1, "check", step))
            truth = largest(e.surface_at(here.w).linearize(here.w).hvp, start, 1, 5e-5, 120)
            error = abs(row["lambda_1"] / float(truth.values[0]) - 1)
            errors.append(
                (error, error <= (row["lambda_1_error"] + float(truth.errors[0])) / row["lambda_1"])
            )
            print(
                f"step {step}  lambda_1 {row['lambda_1']:.4f}  error {error:.1e}  products "
                f"{row['sharpness_products']}",
                flush=True,
            )
    here.w, here.state = e.optimizer.step(here.w, here.state, e.problem.surface.grad, e.lr)

rising = [p for p, b in products[1:] if b]
table(
    "lambda_1 every 20 steps, 2,500 steps of eos_cifar10_5k",
    [
        ("products a measurement before the edge", f"{sum(rising) / len(rising):.2f}", "<= 3"),
        ("products a measurement over the run", f"{sum(p for p, _ in products) / len(products):.2f}", "<= 8"),
        ("largest relative error of the checked", f"{max(error for error, _ in errors):.1e}", "< 1e-3"),
        ("checked whose stated error covers the truth", f"{sum(c for _, c in errors)}/{len(errors)}", "all"),
    ],
)
