"""A loss as a function of one flat weight vector: its value, its gradient and its Hessian products."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
Grad = Callable[[Tensor], Tensor]

PROBE_EXAMPLES = (4, 8)  # two batch sizes whose graphs tell the bytes an example adds


@dataclass(frozen=True)
class LossSurface:
    """L(w) = sum_b (n_b / n) loss(predict(w, x_b), y_b) + penalty(w): the mean over all n examples.

    `batches` are pairs (x_b [n_b, ...], y_b [n_b, ...]) and may be of unequal size: each is weighted by its share of
    the examples. `predict` is differentiable in the flat `w` [D], `loss` returns the mean over a batch. Whatever
    asks for products holds one graph of the whole surface while that fits `graph_budget` bytes, else one batch's.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    batches: tuple[Batch, ...]
    penalty: Callable[[Tensor], Tensor] | None = None
    graph_budget: int = 2**31

    @property
    def examples(self) -> int:
        """n, the number of examples the mean runs over."""
        return sum(len(y) for _, y in self.batches)

    def on(self, batches: Iterable[Batch]) -> LossSurface:
        """The same loss over other examples."""
        return replace(self, batches=tuple(batches))

    def value(self, w: Tensor) -> Tensor:
        """L(w), a scalar without a graph."""
        with torch.no_grad():
            return self._sum(w, self._terms(w))

    def grad(self, w: Tensor) -> Tensor:
        """grad L(w) [D], without a graph; one batch's activations are in memory at a time."""
        w = w.detach().requires_grad_()
        return self._sum(w, (torch.autograd.grad(term, w)[0] for term in self._terms(w))).detach()

    def hvp(self, w: Tensor, V: Tensor) -> Tensor:
        """H(w) V for one vector [D] or for the rows of a block [m, D]."""
        return self.linearize(w).hvp(V)

    def linearize(self, w: Tensor) -> Linearization:
        """The gradient and Hessian products at `w`, for many products at one point."""
        return Linearization(self, w)

    def graph_bytes(self, w: Tensor) -> int:
        """Bytes that a gradient graph of all examples would hold, from the graphs of four and of eight of them."""
        x, y = self.batches[0]
        small, large = PROBE_EXAMPLES
        if len(y) < large:
            return self.examples * max(x[0].nbytes, 1)
        fixed, more = (self.on([(x[:m], y[:m])])._graph_bytes(w) for m in PROBE_EXAMPLES)
        return fixed + (more - fixed) * (self.examples - small) // (large - small)

    def _graph_bytes(self, w: Tensor) -> int:
        saved: dict[int, int] = {}

        def note(t: Tensor) -> Tensor:
            storage = t.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            w = w.detach().requires_grad_()
            graph = self._gradient_graph(w)
        del graph
        return sum(saved.values())

    def _gradient_graph(self, w: Tensor) -> Tensor:
        return torch.autograd.grad(self._sum(w, self._terms(w)), w, create_graph=True, materialize_grads=True)[0]

    def _terms(self, w: Tensor) -> Iterable[Tensor]:
        """One scalar for each batch, computed when asked for; they add up to L(w)."""
        n = self.examples
        for x, y in self.batches:
            term = self.loss(self.predict(w, x), y)
            if self.penalty is not None:
                term = term + self.penalty(w)
            yield term if len(y) == n else term * (len(y) / n)

    @staticmethod
    def _sum(w: Tensor, terms: Iterable[Tensor]) -> Tensor:
        total = None
        for term in terms:
            total = term if total is None else total + term
        assert total is not None, "a surface has at least one batch"
        return total


class Linearization:
    """The gradient `grad` [D] at w and products with the Hessian there.

    A product differentiates g(w).v once more. The graph of g is kept for all products where it fits the surface's
    budget (`kept`), else rebuilt batch by batch for every call, so that peak memory is that of one batch: pass
    several vectors at once then.
    """

    def __init__(self, surface: LossSurface, w: Tensor) -> None:
        self._surface = surface
        self._w = w.detach().requires_grad_()
        self.kept = surface.graph_bytes(w) <= surface.graph_budget
        self._graph = surface._gradient_graph(self._w) if self.kept else None
        self._grad: Tensor | None = None

    @property
    def grad(self) -> Tensor:
        """grad L(w) [D], without a graph."""
        if self._grad is None:
            self._grad = self._graph.detach() if self._graph is not None else self._surface.grad(self._w)
        return self._grad

    def hvp(self, V: Tensor) -> Tensor:
        """H V: [D] for one vector [D], [m, D] for the rows of a block [m, D].

        A block shares one rebuilt graph, and its vectors take turns: batching them through `vmap`
        (`is_grads_batched`) costs 1.6 times as much on a ResNet, and a little more on an mlp.
        """
        if V.ndim == 1:
            return self.hvp(V[None])[0]
        if self._graph is not None:
            return self._products(self._graph, V)
        n, total = self._surface.examples, torch.zeros_like(V)
        for batch in self._surface.batches:
            total += self._products(self._surface.on([batch])._gradient_graph(self._w), V) * (len(batch[1]) / n)
        return total

    def _products(self, graph: Tensor, V: Tensor) -> Tensor:
        if not graph.requires_grad:  # a loss linear in w has no second derivative
            return torch.zeros_like(V)
        keep = {"retain_graph": True, "materialize_grads": True}
        return torch.stack([torch.autograd.grad(graph, self._w, v, **keep)[0] for v in V]).detach()
