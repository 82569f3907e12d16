"""The cost of a Hessian product, in gradients of the same surface timed in turn with it.

`python benchmarks/products.py`; needs CIFAR-10.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from common import RESNET20_256, experiment, seconds, table

from sharpcli.engine.experiment import Experiment

KEEP_ANY_GRAPH, KEEP_NO_GRAPH = 10**12, 0  # bytes


def costs(name: str, e: Experiment, n: int, rounds: int, wanted: tuple[str, str, str, str]) -> None:
    """Prints the table of one network on the first `n` examples in one batch: products with the graph kept
    and rebuilt, with single vectors and with blocks of four."""
    x, y = e.problem.examples
    surface, w = e.problem.surface.on([(x[:n], y[:n])]), e.problem.w0
    V = torch.randn(4, len(w))
    kept_graph = replace(surface, graph_budget=KEEP_ANY_GRAPH).linearize(w)
    rebuilt_graph = replace(surface, graph_budget=KEEP_NO_GRAPH).linearize(w)
    gradient, kept_1, kept_4, rebuilt_1, rebuilt_4 = seconds(
        rounds,
        lambda: surface.grad(w),
        lambda: kept_graph.hvp(V[0]),
        lambda: kept_graph.hvp(V),
        lambda: rebuilt_graph.hvp(V[0]),
        lambda: rebuilt_graph.hvp(V),
    )
    products = {
        "graph kept, one vector": kept_1,
        "graph kept, each of four": kept_4 / 4,
        "rebuilt, one vector": rebuilt_1,
        "rebuilt, each of four": rebuilt_4 / 4,
    }
    table(
        f"a product in gradients, {name}",
        [
            (question, f"{product / gradient:.2f}", want)
            for (question, product), want in zip(products.items(), wanted, strict=True)
        ],
    )


def main() -> None:
    """Prints the tables of both networks."""
    mlp, resnet = experiment("experiment=eos_cifar10_5k"), experiment(*RESNET20_256)
    costs("mlp 200-200, 5,000 images", mlp, 5000, 15, ("<= 1.15", "<= 1.25", "<= 2.3", "-"))
    costs("ResNet-20, 256 images", resnet, 256, 5, ("<= 2.0", "-", "-", "<= 2.9"))


if __name__ == "__main__":
    main()
