"""Hessian products compiled by `torch.compile`, and the rule that decides when compiling them is
worthwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, vjp

from sharpcli.errors import Refusal

When = Literal["auto", "true", "false"]
Weights = Float[Tensor, " D"]
# (w, v, x, y) to H(w) v, H the Hessian of the mean loss of the batch (x, y)
Product = Callable[[Weights, Weights, Tensor, Tensor], Weights]
# predict: (w, x) to outputs; loss: (outputs, y) to their mean loss
Binary = Callable[[Tensor, Tensor], Tensor]

# Products on a GPU after which compiling has paid: an mlp's compilation took 9 s on an H100 and saved 0.7 ms
# a product (docs/benchmarks.md).
WRONG = 1e-2  # of the norm of a product: a difference that is no rounding
BREAK_EVEN_PRODUCTS = 14_000


class CompiledProducts:
    """The compiled product v -> d(g(w).v)/dw, g the gradient of a batch's mean loss, for one network and all
    points w at which it is measured.

    `when` is `true`: compiled at the first product; `false`: never; `auto`: on CUDA, once the process has
    spent `BREAK_EVEN_PRODUCTS`, so that as many products again would repay the compilation. `auto` never
    compiles on a CPU, where the compiled product was slower than one over a kept graph (1.6 against 1.1
    gradients for an mlp, 3.7 against 2.1 for a ResNet-20). The compiled product recomputes the gradient each
    time and keeps no graph; it equals the uncompiled one up to rounding. On a machine that cannot compile, or
    with a version of PyTorch whose compiled products are wrong (0 in 2.6 and 2.7), `true` raises Refusal and
    `auto` goes on with uncompiled ones.
    """

    def __init__(self, when: When, predict: Binary, loss: Binary) -> None:
        self.when, self.spent, self._predict = when, 0, predict
        self._compiled: Product | None = None

        def product(w: Weights, v: Weights, x: Tensor, y: Tensor) -> Weights:
            def batch_loss(at: Weights) -> Float[Tensor, ""]:
                return loss(predict(at, x), y)

            return vjp(grad(batch_loss), w)[1](v)[0]

        self._product = product

    def product(self, predict: Binary, device: torch.device, count: int) -> Product | None:
        """The compiled product to use for the next `count` products, or None if compiling does not pay or if
        `predict` is not the function that was compiled (a subset of the parameters, other batch-norm
        statistics)."""
        if self.when == "false" or predict is not self._predict:
            return None
        self.spent += count
        if self.when == "auto" and (device.type != "cuda" or self.spent <= BREAK_EVEN_PRODUCTS):
            return None
        if self._compiled is None:
            compiled = _refusing(torch.compile(self._product), self._product)
            self._compiled = compiled if self.when == "true" else self._or_plain(compiled)
        return self._compiled

    def _or_plain(self, compiled: Product) -> Product:
        """The product `compiled`, or the uncompiled one from its first refusal on."""

        def product(w: Weights, v: Weights, x: Tensor, y: Tensor) -> Weights:
            if self.when == "false":  # refused before, while the graphs of this point were asked for
                return self._product(w, v, x, y)
            try:
                return compiled(w, v, x, y)
            except Refusal:
                self.when = "false"
                return self._product(w, v, x, y)

        return product


def _refusing(compiled: Product, plain: Product) -> Product:
    """The product `compiled`, with a failure of the compiler raised as a Refusal, and a first product that is
    not that of the `plain` function. Running out of memory is
    no failure of the compiler and passes through."""
    # Imported here because the import takes a second, and most runs compile nothing.
    from torch._dynamo.exc import TorchDynamoException

    is_checked = False

    def product(w: Weights, v: Weights, x: Tensor, y: Tensor) -> Weights:
        nonlocal is_checked
        try:
            Hv = compiled(w, v, x, y)
            if not is_checked:
                exact = plain(w, v, x, y)
                if float((Hv - exact).norm()) > WRONG * float(exact.norm()):
                    raise Refusal(
                        f"torch.compile gives wrong Hessian products in torch {torch.__version__}; take "
                        f"compile_products=false"
                    )
                is_checked = True
            return Hv
        except (RuntimeError, TorchDynamoException) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            first_line = str(error).strip().splitlines()[0]
            raise Refusal(
                f"torch.compile fails here ({first_line}); take compile_products=false, or install a C++ "
                f"compiler"
            ) from None

    return product
