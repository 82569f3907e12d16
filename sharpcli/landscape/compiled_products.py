"""Hessian products compiled by `torch.compile`, where that pays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.func import grad, vjp

from sharpcli.errors import Refusal

When = Literal["auto", "true", "false"]
Product = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (w, v, x, y) -> H v of one batch
Binary = Callable[[Tensor, Tensor], Tensor]

# products on CUDA: compiling an mlp's took 9 s on an H100 and saved 0.7 ms each (docs/benchmarks.md)
BREAK_EVEN_PRODUCTS = 14_000


class CompiledProducts:
    """The compiled product v -> d(g(w).v)/dw of a batch's mean loss, for one network and all points at which
    it is measured.

    `true` compiles at once, `false` never. `auto` compiles on CUDA once this process has spent so many
    products that the next as many would repay it, and never on a CPU, where the compiled product was slower
    than one over a kept graph (1.6 against 1.1 gradients for an mlp, 3.7 against 2.1 for a ResNet-20). It
    rebuilds the gradient in every product, so that no graph is kept. Compiled and other products are equal up
    to rounding. Refuses a machine that cannot compile.
    """

    def __init__(self, when: When, predict: Binary, loss: Binary) -> None:
        self.when, self.spent, self._made_for = when, 0, predict
        self._compiled: Product | None = None

        def product(w: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
            def of(at: Tensor) -> Tensor:
                return loss(predict(at, x), y)

            return vjp(grad(of), w)[1](v)[0]

        self._product = product

    def product(self, predict: Binary, device: torch.device, count: int) -> Product | None:
        """The compiled product for the next `count` of them; None where it does not pay, and for outputs
        other than those it was made for (some parameters alone, other batch-norm statistics)."""
        if self.when == "false" or predict is not self._made_for:
            return None
        self.spent += count
        if self.when == "auto" and (device.type != "cuda" or self.spent <= BREAK_EVEN_PRODUCTS):
            return None
        if self._compiled is None:
            self._compiled = _refusing(torch.compile(self._product))
        return self._compiled


def _refusing(compiled: Product) -> Product:
    from torch._dynamo.exc import (
        TorchDynamoException,
    )  # a second to import, which a run that compiles nothing is spared

    def product(w: Tensor, v: Tensor, x: Tensor, y: Tensor) -> Tensor:
        try:
            return compiled(w, v, x, y)
        except (RuntimeError, TorchDynamoException) as problem:
            if isinstance(problem, torch.OutOfMemoryError) or "allocate memory" in str(problem):
                raise
            first = str(problem).strip().splitlines()[0]
            raise Refusal(
                f"torch.compile fails here ({first}); take compile_products=false, or install a C++ compiler"
            ) from None

    return product
