"""A loss as a function of one flat weight vector: its value, its gradient and its curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.compiled_products import CompiledProducts
from sharpcli.landscape.distributed import ALONE, Processes

Batch = tuple[Tensor, Tensor]
Grad = Callable[[Tensor], Tensor]  # a gradient function; a LossSurface is one, and `whole_loss` gets it back

PROBE_EXAMPLES = (4, 8)  # two batch sizes whose graphs tell the bytes an example adds
KEEP_GRAPH = {"retain_graph": True, "materialize_grads": True}


@dataclass(frozen=True)
class LossSurface:
    """L(w) = sum_b (n_b / n) loss(predict(w, x_b), y_b) + penalty(w): the mean over all n examples.

    `batches` are pairs (x_b [n_b, ...], y_b [n_b, ...]) and may be of unequal size: each is weighted by its
    share of the examples. `predict` is differentiable in the flat `w` [D], `loss` returns the mean over a
    batch. A `Linearization` holds one graph of the whole surface while that fits `graph_budget` bytes, else
    one batch's.

    Of several `processes` each evaluates its share of the examples, and value, gradient and products are
    summed. `joint` says that the outputs of a batch depend on one another (batch norm), so that a batch
    cannot be split. `compiled` may lend compiled Hessian products.
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    batches: tuple[Batch, ...]
    penalty: Callable[[Tensor], Tensor] | None = None
    graph_budget: int = 2**31
    processes: Processes = ALONE
    joint: bool = False
    compiled: CompiledProducts | None = None

    @property
    def examples(self) -> int:
        """n, the number of examples the mean runs over."""
        return sum(len(y) for _, y in self.batches)

    @property
    def joined(self) -> Batch:
        """All examples as one batch."""
        x, y = zip(*self.batches, strict=True)
        return torch.cat(x), torch.cat(y)

    @property
    def own_batches(self) -> tuple[Batch, ...]:
        """The batches that this process evaluates."""
        return self.processes.share(self.batches, self.joint)

    def on(self, batches: Iterable[Batch]) -> LossSurface:
        """The same loss over other examples."""
        return replace(self, batches=tuple(batches))

    def through(self, embed: Callable[[Tensor], Tensor]) -> LossSurface:
        """The same loss as a function of u, w = embed(u): of some of the weights, or in other coordinates."""
        predict, penalty = self.predict, self.penalty
        inner = None if penalty is None else (lambda u: penalty(embed(u)))
        return replace(self, predict=lambda u, x: predict(embed(u), x), penalty=inner)

    def plus(self, penalty: Callable[[Tensor], Tensor]) -> LossSurface:
        """L(w) + penalty(w), beside whatever penalty the loss has."""
        inner = self.penalty
        return replace(self, penalty=penalty if inner is None else lambda w: penalty(w) + inner(w))

    @property
    def whole(self) -> LossSurface:
        """This loss: a rule that needs more of it than the gradient asks for it here (see `whole_loss`)."""
        return self

    def __call__(self, w: Tensor) -> Tensor:
        """grad L(w): a surface is the gradient function that an update rule is handed."""
        return self.grad(w)

    def value(self, w: Tensor) -> Tensor:
        """L(w), a scalar without a graph."""
        with torch.no_grad():
            return self.processes.sum(self._sum(w, self._terms(w)))

    def grad(self, w: Tensor) -> Tensor:
        """grad L(w) [D], without a graph; one batch's activations are in memory at a time."""
        w = w.detach().requires_grad_()
        return self.processes.sum(
            self._sum(w, (torch.autograd.grad(term, w)[0] for term in self._terms(w))).detach()
        )

    def value_and_grad(self, w: Tensor) -> tuple[float, Tensor]:
        """L(w) and grad L(w) [D], for the cost of the gradient."""
        w = w.detach().requires_grad_()
        total, slope = torch.zeros((), dtype=w.dtype, device=w.device), torch.zeros_like(w)
        for term in self._terms(w):
            slope += torch.autograd.grad(term, w)[0]
            total += term.detach()
        return float(self.processes.sum(total)), self.processes.sum(slope).detach()

    def hvp(self, w: Tensor, V: Tensor) -> Tensor:
        """H(w) V for one vector [D] or for the rows of a block [m, D]."""
        return self.linearize(w).hvp(V)

    def linearize(self, w: Tensor) -> Linearization:
        """The gradient and products with the curvature at `w`, for many products at one point."""
        return Linearization(self, w)

    def curvature_grad(self, w: Tensor, V: Tensor) -> Tensor:
        """The gradient [D] of sum_i V_i . H(w) V_i in w, for fixed rows of V [m, D]: a third derivative.

        With V an orthonormal eigenvector it is grad lambda_1 (where that is simple), with V the identity grad
        Tr H, with V independent signs an unbiased estimate of m grad Tr H. One batch's graph is in memory at
        a time. Refuses layers whose third derivative PyTorch does not have (batch norm).
        """
        total = torch.zeros_like(w)
        at = w.detach().requires_grad_()
        for weight, batch in self._weighted():
            g = self._alone(batch)._gradient_graph(at)
            for v in V:
                total += _third(g, at, v) * weight
        return self.processes.sum(total)

    def graph_bytes(self, w: Tensor) -> int:
        """Bytes that a gradient graph of this process's examples would hold, from the graphs of four and of
        eight."""
        x, y = self.batches[0]
        count = sum(len(y) for _, y in self.own_batches)
        small, large = PROBE_EXAMPLES
        if len(y) < large:
            return count * max(x[0].nbytes, 1)
        of_small, of_large = (self._alone((x[:m], y[:m]))._graph_bytes(w) for m in PROBE_EXAMPLES)
        return of_small + (of_large - of_small) * (count - small) // (large - small)

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
        """The gradient of this process's share of the loss, with its graph."""
        return torch.autograd.grad(
            self._sum(w, self._terms(w)), w, create_graph=True, materialize_grads=True
        )[0]

    def _alone(self, batch: Batch) -> LossSurface:
        """The surface of one batch, for this process alone."""
        return replace(self, batches=(batch,), processes=ALONE)

    def _weighted(self) -> Iterator[tuple[float, Batch]]:
        """This process's batches, each with its share of the mean."""
        n = self.examples
        return ((len(batch[1]) / n, batch) for batch in self.own_batches)

    def _terms(self, w: Tensor) -> Iterator[Tensor]:
        """One scalar for each batch, computed when asked for; they add up to L(w)."""
        for weight, (x, y) in self._weighted():
            term = self.loss(self.predict(w, x), y)
            if self.penalty is not None:
                term = term + self.penalty(w)
            yield term if weight == 1 else term * weight

    @staticmethod
    def _sum(w: Tensor, terms: Iterable[Tensor]) -> Tensor:
        total = None
        for term in terms:
            total = term if total is None else total + term
        return w.sum() * 0 if total is None else total  # a process without examples adds nothing


class Linearization:
    """The gradient `grad` [D] at w, and products there with the Hessian H, the Gauss-Newton matrix and the
    second moment of the examples' gradients.

    A Hessian product differentiates g(w).v once more; the others go through the outputs, J^T M J v. The
    graphs are kept for all products where the gradient's fits the surface's budget (`kept`), else rebuilt
    batch by batch for every call, so that peak memory is that of one batch: pass several vectors at once
    then. Products take one vector [D], or the rows of a block [m, D], which share one rebuilt graph and take
    turns: batching them through `vmap` (`is_grads_batched`) costs 1.6 times as much on a ResNet, and a little
    more on an mlp.
    """

    def __init__(self, surface: LossSurface, w: Tensor) -> None:
        self._surface = surface
        self._w = w.detach().requires_grad_()
        self.kept = surface.graph_bytes(w) <= surface.graph_budget
        self._graph: Tensor | None = None
        self._outputs: list[_Outputs] | None = None
        self._grad: Tensor | None = None

    @property
    def grad(self) -> Tensor:
        """grad L(w) [D], without a graph."""
        if self._grad is None:
            s = self._surface
            self._grad = s.processes.sum(self._whole().detach().clone()) if self.kept else s.grad(self._w)
        return self._grad

    def hvp(self, V: Tensor) -> Tensor:
        """H V."""
        if V.ndim == 1:
            return self.hvp(V[None])[0]
        s = self._surface
        compiled = None if s.compiled is None or s.penalty is not None else s.compiled
        product = None if compiled is None else compiled.product(s.predict, V.device, len(V))
        if product is None and self.kept:
            return s.processes.sum(_products(self._whole(), self._w, V))
        total = torch.zeros_like(V)
        for weight, (x, y) in s._weighted():
            if product is not None:
                total += torch.stack([product(self._w.detach(), v, x, y) for v in V]) * weight
            else:
                total += _products(s._alone((x, y))._gradient_graph(self._w), self._w, V) * weight
        return s.processes.sum(total)

    def ggn(self, V: Tensor) -> Tensor:
        """G V, the Gauss-Newton matrix G = (1/n) sum_i J_i^T (d^2 loss_i / d f_i^2) J_i, J_i [C, D] the
        Jacobian of the outputs (Schraudolph 2002); for cross-entropy the Fisher. A penalty counts with its
        own Hessian."""
        out = self._through_outputs(V, lambda outputs, JV: outputs.curved(JV))
        if self._surface.penalty is not None:
            penalty = torch.autograd.grad(
                self._surface.penalty(self._w), self._w, create_graph=True, materialize_grads=True
            )[0]
            out = out + _products(penalty, self._w, V.reshape(-1, V.shape[-1])).view_as(V)
        return out

    def second_moment(self, V: Tensor) -> Tensor:
        """M V, M = (1/n) sum_i g_i g_i^T over the gradients g_i of single examples (without a penalty); their
        covariance is M - g g^T. Needs outputs that do not depend on other examples."""
        return self._through_outputs(V, lambda outputs, JV: outputs.squared(JV))

    def _whole(self) -> Tensor:
        if self._graph is None:
            self._graph = self._surface._gradient_graph(self._w)
        return self._graph

    def _through_outputs(self, V: Tensor, middle: Callable[[_Outputs, Tensor], Tensor]) -> Tensor:
        if V.ndim == 1:
            return self._through_outputs(V[None], middle)[0]
        if self.kept and self._outputs is None:
            self._outputs = [_Outputs(self._surface, self._w, *item) for item in self._surface._weighted()]
        parts: Iterable[_Outputs] = self._outputs or (
            _Outputs(self._surface, self._w, *item) for item in self._surface._weighted()
        )
        total = torch.zeros_like(V)
        for outputs in parts:
            total += torch.stack([outputs.pull(middle(outputs, outputs.push(v))) for v in V]) * outputs.weight
        return self._surface.processes.sum(total)


class _Outputs:
    """The outputs f of a batch and their Jacobian, as two products: J v by differentiating J^T u in u, and
    J^T u."""

    def __init__(self, surface: LossSurface, w: Tensor, weight: float, batch: Batch) -> None:
        x, y = batch
        self.w, self.weight, self.n = w, weight, len(y)
        self.f = surface.predict(w, x)
        self.u = torch.zeros_like(self.f, requires_grad=True)
        (self.pulled,) = torch.autograd.grad(self.f, w, self.u, create_graph=True, materialize_grads=True)
        free = self.f.detach().requires_grad_()
        self.free, (self.slope,) = free, torch.autograd.grad(surface.loss(free, y), free, create_graph=True)

    def push(self, v: Tensor) -> Tensor:
        """J v, of the shape of f."""
        return torch.autograd.grad(self.pulled, self.u, v, **KEEP_GRAPH)[0]

    def pull(self, u: Tensor) -> Tensor:
        """J^T u [D]."""
        return torch.autograd.grad(self.f, self.w, u, **KEEP_GRAPH)[0]

    def curved(self, JV: Tensor) -> Tensor:
        """The Hessian of the batch's mean loss in its outputs, times JV."""
        if not self.slope.requires_grad:
            return torch.zeros_like(JV)
        return torch.autograd.grad(self.slope, self.free, JV, **KEEP_GRAPH)[0]

    def squared(self, JV: Tensor) -> Tensor:
        """(1/n_b) r_i (r_i . JV_i) for each example, r_i the gradient of its own loss in its outputs."""
        r = self.slope.detach() * self.n
        along = (r * JV).flatten(1).sum(1).view(-1, *[1] * (r.ndim - 1))
        return r * along / self.n


def _third(g: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """The gradient of v.Hv [D], given the graph of the gradient g."""
    try:
        (hv,) = torch.autograd.grad(g, w, v, create_graph=True, materialize_grads=True)
        return torch.autograd.grad(hv, w, v, **KEEP_GRAPH)[0] if hv.requires_grad else torch.zeros_like(w)
    except RuntimeError as problem:
        if "order derivatives" not in str(problem):
            raise
        raise Refusal(
            f"a third derivative is needed, and PyTorch says: {problem}; take a model with another norm"
        ) from None


def _products(graph: Tensor, w: Tensor, V: Tensor) -> Tensor:
    """The derivative of graph . v in w, for each row v of V."""
    if not graph.requires_grad:  # a loss linear in w has no second derivative
        return torch.zeros_like(V)
    return torch.stack([torch.autograd.grad(graph, w, v, **KEEP_GRAPH)[0] for v in V]).detach()


def whole_loss(grad: Grad, rule: str) -> LossSurface:
    """The loss whose gradient function an update rule was handed. Refuses, in the name of `rule`, a gradient
    that another rule has changed, such as SAM's."""
    surface: LossSurface | None = getattr(grad, "whole", None)
    if surface is None:
        raise Refusal(f"optimizer={rule} needs the training loss itself; it is no base for another rule")
    return surface
