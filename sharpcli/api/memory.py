"""`sharp.memory`: what a measurement will take, before it is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sharpcli.api.arguments import size_in_bytes
from sharpcli.api.measure import BASIS_GB, CHUNK, GRAPH_GB
from sharpcli.api.problem import Loss, Weight, own
from sharpcli.api.refused import python
from sharpcli.linalg.krylov import KEPT_VECTORS

# Fitted to GPT-2s of 3 million weights at 4, 32 and 128 sequences and of 25 million at 4: a product takes
# about as much again as the largest of the gradient's graphs, and beside the basis there are the weights, the
# gradient, a product and its parts, and the eigenvectors that are kept.
PRODUCT = 1.1
WORKING_VECTORS = 6 + KEPT_VECTORS
MOST_VECTORS = 50  # that Hutch++ keeps of 100 products; a first solve for lambda_1 to 1e-3 takes about 24


@dataclass(frozen=True)
class Memory:
    """Bytes that a first measurement of lambda_1 or of Tr H takes beside the model and its data: `vectors`,
    as long as the weights (the basis and what is computed with it), and `graphs`, of the gradient and of a
    product."""

    vectors: int
    graphs: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.vectors + self.graphs

    def __str__(self) -> str:
        return f"{self.total / 1e9:.2f} GB: vectors {self.vectors / 1e9:.2f}, graphs {self.graphs / 1e9:.2f}"


@python
def memory(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: str | Sequence[str] | None = None,
    weight: Weight | None = None,
    eval_mode: bool = False,
    chunk: int = CHUNK,
    examples: int | None = None,
    graph_gb: float = GRAPH_GB,
    basis_gb: float = BASIS_GB,
) -> Memory:
    """What `sharp.measure(...)` of sharpness or trace will take, from the number of weights and the graphs of
    a few examples: an estimate, within a fifth where `basis_gb` holds fewer vectors than a solve takes
    products (from 20 million weights in float32 at its default), and less exact for smaller networks. The
    arguments are those of `sharp.measure`."""
    mine = own(
        model,
        loss,
        data,
        params=params,
        weight=weight,
        chunk=chunk,
        examples=examples,
        graph_budget=size_in_bytes("graph_gb", graph_gb),
        eval_mode=eval_mode,
    )
    surface, w = mine.problem.surface, mine.problem.w0
    with mine.untouched():
        graph = surface.graph_bytes(w)
        largest = max(surface.in_pieces(w, graph).batches, key=lambda batch: len(batch[1]))
        of_product = surface.single(largest).graph_bytes(w)
    kept = graph if graph <= surface.graph_budget else of_product  # else one at a time, for each product
    room = max(2 * KEPT_VECTORS, size_in_bytes("basis_gb", basis_gb) // w.nbytes)
    basis = min(room, MOST_VECTORS, len(w))
    return Memory((basis + WORKING_VECTORS) * w.nbytes, int(kept + PRODUCT * of_product))
