"""What a Hessian product costs, in gradients of the same surface timed in turn with it."""

from __future__ import annotations

from dataclasses import replace

import torch
from common import experiment, seconds, table


def costs(name: str, e, examples: int, chunk: int, rounds: int, wanted: tuple[str, str, str, str]) -> None:
    """A table for one network: kept and rebuilt graphs, single vectors and blocks of four."""
    x, y = e.problem.examples
    batches = [(x[i : i + chunk], y[i : i + chunk]) for i in range(0, examples, chunk)]
    surface, w = e.problem.surface.on(batches), e.problem.w0
    V = torch.randn(4, len(w))
    kept = replace(surface, graph_budget=10**12).linearize(w)
    rebuilt = replace(surface, graph_budget=0).linearize(w)
    contestants = [
        lambda: surface.grad(w),
        lambda: kept.hvp(V[0]),
        lambda: kept.hvp(V),
        lambda: rebuilt.hvp(V[0]),
        lambda: rebuilt.hvp(V),
    ]
    g, one, four, one_rebuilt, four_rebuilt = seconds(rounds, *contestants)
    ratios = (one / g, four / 4 / g, one_rebuilt / g, four_rebuilt / 4 / g)
    questions = (
        "graph kept, one vector",
        "graph kept, each of four",
        "rebuilt, one vector",
        "rebuilt, each of four",
    )
    table(
        f"a product in gradients, {name}",
        [(q, f"{r:.2f}", want) for q, r, want in zip(questions, ratios, wanted, strict=True)],
    )


costs(
    "mlp 200-200, 5,000 images",
    experiment("experiment=eos_cifar10_5k"),
    5000,
    5000,
    15,
    ("<= 1.15", "<= 1.25", "<= 2.3", "-"),
)
preset = (
    "experiment=resnet20_cifar10",
    "data.train_examples=512",
    "data.test_examples=64",
    "measure_examples=256",
)
costs("ResNet-20, 256 images", experiment(*preset), 256, 256, 5, ("<= 2.0", "-", "-", "<= 2.9"))
