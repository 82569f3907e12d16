"""What `torch.compile` makes of a Hessian product, beside the kept graph: seconds of compiling, and products
in gradients."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from common import experiment, seconds, table
from torch import Tensor
from torch.func import grad, vjp

CASES = {
    "mlp 200-200, 5,000 images": (["experiment=eos_cifar10_5k"], 5000, 9),
    "ResNet-20, 256 images": (
        [
            "experiment=resnet20_cifar10",
            "data.train_examples=512",
            "data.test_examples=64",
            "measure_examples=256",
        ],
        256,
        3,
    ),
}


def main() -> None:
    """See the top."""
    for name, (words, n, rounds) in CASES.items():
        e = experiment(*words)
        x, y = (part[:n] for part in e.problem.examples)
        surface, w = e.problem.surface.on([(x, y)]), e.problem.w0
        v = torch.randn_like(w)

        def product(w: Tensor, v: Tensor, s=surface, x=x, y=y) -> Tensor:  # type: ignore[no-untyped-def]
            return vjp(grad(lambda at: s.loss(s.predict(at, x), y)), w)[1](v)[0]

        fast = torch.compile(product)
        started = time.perf_counter()
        found = fast(w, v)
        compiling = time.perf_counter() - started
        kept = replace(surface, graph_budget=10**12).linearize(w)
        right = kept.hvp(v)
        one, graph, compiled = seconds(
            rounds,
            lambda s=surface, w=w: s.grad(w),
            lambda k=kept, v=v: k.hvp(v),
            lambda f=fast, w=w, v=v: f(w, v),
        )
        table(
            name,
            [
                ("compiling, seconds", f"{compiling:.0f}", "-"),
                ("a product by the kept graph, in gradients", f"{graph / one:.2f}", "-"),
                ("a compiled product, in gradients", f"{compiled / one:.2f}", "below the kept one"),
                ("relative difference", f"{float((found - right).norm() / right.norm()):.0e}", "-"),
            ],
        )


if __name__ == "__main__":
    main()
