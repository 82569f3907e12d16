"""`sharp.memory`: what a measurement will take, before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sharpcli.api.measure import BASIS_GB, CHUNK, GRAPH_GB
from sharpcli.api.problem import Loss, Weight, own
from sharpcli.api.refused import python
from sharpcli.linalg.krylov import KEPT_VECTORS

# Vectors of length D beside the basis: w, the gradient and its graph's pieces, a product and its parts.
WORKING_VECTORS = 8
FIRST_SOLVE = 24  # products of a first solve for lambda_1 to 1e-3, each a vector of the basis


@dataclass(frozen=True)
class Memory:
    """Bytes that a first measurement of lambda_1 takes beside the model and its data: `vectors`, as long as
    the weights (the basis and what is computed with it), and `graph`, of the gradient."""

    vectors: int
    graph: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.vectors + self.graph

    def __str__(self) -> str:
        return f"{self.total / 1e9:.2f} GB: vectors {self.vectors / 1e9:.2f}, graph {self.graph / 1e9:.2f}"


@python
def memory(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    k: int = 1,
    params: str | Sequence[str] | None = None,
    weight: Weight | None = None,
    eval_mode: bool = False,
    chunk: int = CHUNK,
    examples: int | None = None,
    graph_gb: float = GRAPH_GB,
    basis_gb: float = BASIS_GB,
) -> Memory:
    """What `sharp.measure(..., ["sharpness"], k=k)` will take, from the weights' number and the graphs of a
    few examples. The arguments are those of `sharp.measure`."""
    mine = own(
        model,
        loss,
        data,
        params=params,
        weight=weight,
        chunk=chunk,
        examples=examples,
        graph_budget=int(graph_gb * 1e9),
        eval_mode=eval_mode,
    )
    surface, w = mine.problem.surface, mine.problem.w0
    with mine.untouched():
        graph = surface.graph_bytes(w)
        if graph > surface.graph_budget:  # then that of a batch, built anew for each product
            graph = max(surface.single(batch).graph_bytes(w) for batch in surface.batches)
    room = max(2 * KEPT_VECTORS, int(basis_gb * 1e9) // w.nbytes)
    basis = min(room, FIRST_SOLVE + 4 * (k - 1), len(w))
    return Memory((basis + WORKING_VECTORS) * w.nbytes, graph)
