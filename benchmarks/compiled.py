"""What `torch.compile` gains: a Hessian product against one by the kept graph, and the gradient of a step
against an uncompiled one.

`python benchmarks/compiled.py`; needs CIFAR-10.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from common import RESNET20_256, experiment, seconds, table
from torch import Tensor
from torch.func import grad, vjp

from sharpcli.engine.experiment import Experiment
from sharpcli.landscape.compiled_steps import CompiledSteps

KEEP_ANY_GRAPH = 10**12  # bytes


def compare(name: str, e: Experiment, n: int, rounds: int) -> None:
    """Prints the table of one network on the first `n` examples."""
    x, y = (part[:n] for part in e.problem.examples)
    surface, w = e.problem.surface.on([(x, y)]), e.problem.w0
    v = torch.randn_like(w)

    def product(w: Tensor, v: Tensor) -> Tensor:
        return vjp(grad(lambda at: surface.loss(surface.predict(at, x), y)), w)[1](v)[0]

    compiled = torch.compile(product)
    started = time.perf_counter()
    Hv = compiled(w, v)
    compile_seconds = time.perf_counter() - started
    kept_graph = replace(surface, graph_budget=KEEP_ANY_GRAPH).linearize(w)
    expected = kept_graph.hvp(v)
    gradient, by_graph, by_compile = seconds(
        rounds, lambda: surface.grad(w), lambda: kept_graph.hvp(v), lambda: compiled(w, v)
    )
    table(
        name,
        [
            ("compiling, seconds", f"{compile_seconds:.0f}", "-"),
            ("a product by the kept graph, in gradients", f"{by_graph / gradient:.2f}", "-"),
            ("a compiled product, in gradients", f"{by_compile / gradient:.2f}", "below the kept graph's"),
            ("relative difference", f"{float((Hv - expected).norm() / expected.norm()):.0e}", "-"),
        ],
    )


def compare_steps(name: str, e: Experiment, n: int, rounds: int) -> None:
    """Prints the table of a batch's gradient, of the first `n` examples."""
    x, y = (part[:n] for part in e.problem.examples)
    surface, w = e.problem.surface.on([(x, y)]), e.problem.w0
    compiled = CompiledSteps.of(surface, "true")
    started = time.perf_counter()
    compiled.grad(w)
    compile_seconds = time.perf_counter() - started
    plain, by_compile = seconds(rounds, lambda: surface.grad(w), lambda: compiled.grad(w))
    repaid = compile_seconds / (plain - by_compile) if by_compile < plain else float("inf")
    table(
        name,
        [
            ("compiling, seconds", f"{compile_seconds:.0f}", "-"),
            ("speed of a compiled step's gradient, uncompiled = 1", f"{plain / by_compile:.2f}", "above 1"),
            ("steps that repay the compiling", f"{repaid:,.0f}", "-"),
        ],
    )


def main() -> None:
    """Prints the tables of all networks."""
    compare_steps("mlp 50 on digits, batch 32", experiment("data=digits", "model.widths=[50]"), 32, 200)
    compare_steps("mlp 200-200 on CIFAR-10, batch 128", experiment("experiment=eos_cifar10_5k"), 128, 50)
    compare_steps("ResNet-20, batch 128", experiment(*RESNET20_256), 128, 5)
    compare("mlp 200-200, 5,000 images", experiment("experiment=eos_cifar10_5k"), 5000, 9)
    compare("ResNet-20, 256 images", experiment(*RESNET20_256), 256, 3)


if __name__ == "__main__":
    main()
