"""The loss as a function of one flat weight vector: its value, its gradient and its products with curvature
matrices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, Rows, can_be_cut, joined
from sharpcli.landscape.compiled_products import CompiledProducts
from sharpcli.landscape.distributed import ALONE, Processes
from sharpcli.landscape.hessian_products import Linearization, curvature_grad, finite
from sharpcli.landscape.layer_norm import LayerNorms

# A gradient function w -> grad L(w). A LossSurface is one, and `whole_loss` recovers the surface from it.
Grad = Callable[[Float[Tensor, " D"]], Float[Tensor, " D"]]
Penalty = Callable[[Float[Tensor, " D"]], Float[Tensor, ""]]
Layout = tuple[tuple[str, torch.Size], ...]  # names and shapes of the tensors that w is the concatenation of

# `graph_bytes` builds the graphs of this many examples; the difference gives the bytes that each example
# adds.
PROBE_EXAMPLES = (4, 8)
UNKNOWN_BYTES = 2**62
# `sample` keeps this share of the examples, and no fewer than so many: the change of the Hessian of a network
# on CIFAR-10 in 20 steps of gradient descent is then known to a tenth
SAMPLED_SHARE, LEAST_SAMPLED = 1 / 40, 64
# a graph is built for as many examples as take this many bytes, or this many times those of w: the graph of
# any number of examples holds some vectors [D]
PIECE_BYTES, PIECE_VECTORS = 2**27, 8


def examples_in(batch: Batch) -> float:
    """The number of examples of a batch, its weight in a mean over examples."""
    return float(len(batch[1]))


@dataclass(frozen=True)
class LossSurface:
    """L(w) = sum_b (n_b / n) loss(predict(w, x_b), y_b) + penalty(w): the mean loss over all n examples.

    `batches` are pairs (x_b [n_b, ...], y_b [n_b, ...]), which may differ in size n_b; x_b and y_b may be
    nested structures (`batches.Examples`). `weigh` gives n_b of a batch where the mean is not over examples
    but, say, over the words of a text. `predict(w, x)` returns the outputs [n_b, ...] and is differentiable
    in w [D], `loss` returns the mean over a batch. A
    `Linearization` keeps one graph of the whole surface if that takes at most `graph_budget` bytes, else one
    batch's graph at a time.

    With several `processes`, each evaluates its share of the examples, and values, gradients and products are
    summed over them. `joint` says that the outputs of a batch depend on one another (batch norm), so that no
    batch may be split. `compiled` supplies compiled Hessian products where they pay. `known` is a point (that
    very tensor) and the gradient there, where it has been computed already.
    """

    predict: Callable[[Float[Tensor, " D"], Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Float[Tensor, ""]]
    batches: tuple[Batch, ...]
    penalty: Penalty | None = None
    graph_budget: int = 2**31
    processes: Processes = ALONE
    joint: bool = False
    compiled: CompiledProducts | None = None
    weigh: Callable[[Batch], float] = examples_in
    known: tuple[Tensor, Tensor] | None = None

    @property
    def examples(self) -> int:
        """The number of examples in the mean."""
        return sum(len(y) for _, y in self.batches)

    @property
    def joined(self) -> Batch:
        """All examples as one batch. Refuses batches of other shapes, as of texts of other lengths."""
        x, y = zip(*self.batches, strict=True)
        try:
            return joined(x), joined(y)
        except RuntimeError as problem:
            raise Refusal(
                f"the batches cannot be joined, as this needs: {str(problem).splitlines()[0][:120]}; give "
                f"batches whose examples have one shape (padded), or leave it out"
            ) from None

    @property
    def as_one(self) -> Batch:
        """All examples as one batch, to be evaluated together. Refuses batches whose outputs depend on one
        another, of which the one of all examples is another loss."""
        if self.joint and len(self.batches) > 1:
            raise Refusal(
                f"{self.examples} examples in {len(self.batches)} batches that are normalized one by one "
                f"(batch norm) have no loss as one batch; take chunk={self.examples} or more, or another norm"
            )
        return self.joined

    def over(self, x: Rows, y: Rows) -> LossSurface:
        """The same loss over these examples: where the outputs of a batch depend on one another, in batches
        no larger than this surface's, as a step of training has them."""
        largest = max(len(y) for _, y in self.batches)
        if not self.joint or len(y) <= largest:
            return self.on([(x, y)])
        edges = range(0, len(y), largest)
        return self.on([(x[i : i + largest], y[i : i + largest]) for i in edges])

    def sample(self, rng: torch.Generator, least: int = LEAST_SAMPLED) -> LossSurface:
        """The same loss over a random `SAMPLED_SHARE` of the examples, at least `least`: whole batches where
        their outputs depend on one another or they cannot be cut, else examples of every batch. The surface
        itself where that would be more than half of it."""
        wanted = max(least, round(self.examples * SAMPLED_SHARE))
        if 2 * wanted > self.examples:
            return self
        whole = self.joint or not all(can_be_cut(batch) for batch in self.batches)
        if whole or len(self.batches) > wanted:
            chosen, kept = [], 0
            for i in torch.randperm(len(self.batches), generator=rng).tolist():
                if kept < wanted:
                    chosen.append(self.batches[i])
                    kept += len(self.batches[i][1])
        else:
            share = wanted / self.examples
            chosen = []
            for x, y in self.batches:
                rows = torch.randperm(len(y), generator=rng)[: math.ceil(len(y) * share)]
                chosen.append((x[rows.to(x.device)], y[rows.to(y.device)]))
        counted = [batch for batch in chosen if self.weigh(batch) > 0]  # a mean over no target is no number
        sampled = replace(self.on(counted), compiled=None)
        return sampled if 0 < 2 * sampled.examples <= self.examples else self

    @property
    def own_batches(self) -> tuple[Batch, ...]:
        """The batches that this process evaluates."""
        return self.processes.share(self.batches, self.joint)

    def on(self, batches: Iterable[Batch]) -> LossSurface:
        """The same loss over other examples."""
        return replace(self, batches=tuple(batches), known=None)

    def through(self, embed: Callable[[Float[Tensor, " d"]], Float[Tensor, " D"]]) -> LossSurface:
        """The same loss as a function of u [d], with w = embed(u) [D]: of a subset of the weights, or in
        other coordinates."""
        predict, penalty = self.predict, self.penalty
        inner = None if penalty is None else (lambda u: penalty(embed(u)))
        return replace(self, predict=lambda u, x: predict(embed(u), x), penalty=inner, known=None)

    def plus(self, penalty: Penalty) -> LossSurface:
        """L(w) + penalty(w), in addition to any penalty that L already has."""
        inner = self.penalty
        both = penalty if inner is None else lambda w: penalty(w) + inner(w)
        return replace(self, penalty=both, known=None)

    @property
    def whole(self) -> LossSurface:
        """The surface itself. `whole_loss` reads this attribute of a gradient function, which a surface is
        too."""
        return self

    @property
    def exact(self) -> LossSurface:
        """The same loss, all of it in the precision of w: for what is more than a gradient."""
        return self

    def __call__(self, w: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """grad L(w), so that a surface can be passed to an update rule as its gradient function."""
        return self.grad(w)

    def value(self, w: Float[Tensor, " D"]) -> Float[Tensor, ""]:
        """L(w), without a graph."""
        with torch.no_grad():
            return self.processes.sum(self._sum(w, self._batch_terms(w)))

    def total(self, w: Float[Tensor, " D"]) -> Float[Tensor, ""]:
        """This process's share of L(w) as a function that torch.func can map and differentiate."""
        return self._sum(w, self._batch_terms(w))

    def grad(self, w: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """grad L(w), without a graph. The activations of one batch at a time are in memory."""
        if self.known is not None and self.known[0] is w:
            return self.known[1].clone()  # a rule may write into what it is given
        w = w.detach().requires_grad_()
        gradients = (self._derivative(term, w) for term in self._batch_terms(w))
        # of a process without examples a single 0, where the others have D numbers
        return self.processes.sum(self._sum(w, gradients).detach().expand_as(w).contiguous())

    def value_and_grad(self, w: Float[Tensor, " D"]) -> tuple[float, Float[Tensor, " D"]]:
        """L(w) and grad L(w), for the cost of the gradient."""
        w = w.detach().requires_grad_()
        value, gradient = torch.zeros((), dtype=w.dtype, device=w.device), torch.zeros_like(w)
        for term in self._batch_terms(w):
            gradient += self._derivative(term, w)
            value += term.detach()
        return float(self.processes.sum(value)), self.processes.sum(gradient).detach()

    def _derivative(self, term: Tensor, w: Tensor) -> Tensor:
        """The gradient of one summand, without a graph."""
        return torch.autograd.grad(term, w)[0]

    def hvp(self, w: Float[Tensor, " D"], V: Float[Tensor, "*m D"]) -> Float[Tensor, "*m D"]:
        """The Hessian product H(w) v for a vector [D], or for each row v of a block [m, D]."""
        return self.linearize(w).hvp(V)

    def linearize(self, w: Float[Tensor, " D"], graph_bytes: int | None = None) -> Linearization:
        """The gradient and the products with curvature matrices at w, for many products at one point."""
        return Linearization(self, w, graph_bytes)

    def curvature_grad(self, w: Float[Tensor, " D"], V: Float[Tensor, "m D"]) -> Float[Tensor, " D"]:
        """The gradient in w of sum_i v_i.H(w) v_i for fixed rows v_i of V: a third derivative of L.

        For V the unit eigenvector of lambda_1 it is grad lambda_1 (if lambda_1 is simple), for V the identity
        grad Tr H, for V independent signs an unbiased estimate of m grad Tr H. The graph of one batch at a
        time is in memory. Raises Refusal for layers whose third derivative PyTorch lacks (batch norm), and
        NotFinite.
        """
        total = torch.zeros_like(w)
        at = w.detach().requires_grad_()
        for weight, batch in self.weighted_batches():
            with LayerNorms():
                g = self.single(batch).gradient_graph(at)
            for v in V:
                total += curvature_grad(g, at, v) * weight
        return finite(self.processes.sum(total), "third derivative of the loss")

    def graph_bytes(self, w: Float[Tensor, " D"]) -> int:
        """The estimated size in bytes of the gradient's graph over this process's examples: linear in their
        number, through the measured sizes for `PROBE_EXAMPLES`. For a first batch that is smaller than those
        or cannot be cut, in proportion to its own graph's."""
        x, y = self.batches[0]
        n = sum(len(y) for _, y in self.own_batches)
        small, large = PROBE_EXAMPLES
        try:
            if not can_be_cut(self.batches[0]) or len(y) < large:
                return n * self.single(self.batches[0])._graph_bytes(w) // len(y)
            small_bytes, large_bytes = (self.single((x[:m], y[:m]))._graph_bytes(w) for m in PROBE_EXAMPLES)
        except RuntimeError as problem:
            if "saved tensor hooks" not in str(problem):
                raise
            return UNKNOWN_BYTES  # torch.func inside of the loss: its graph cannot be looked into
        return small_bytes + (large_bytes - small_bytes) * (n - small) // (large - small)

    def _graph_bytes(self, w: Tensor) -> int:
        """The size in bytes of all tensors that the gradient's graph saves, each storage counted once."""
        saved: list[Tensor] = []  # not in the graph itself, which would then hold itself and never be freed

        def record(t: Tensor) -> int:
            saved.append(t)
            return len(saved) - 1

        with torch.autograd.graph.saved_tensors_hooks(record, saved.__getitem__):
            w = w.detach().requires_grad_()
            graph = self.gradient_graph(w)
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
        del graph
        saved.clear()
        return sum(storages.values())

    def in_pieces(self, w: Float[Tensor, " D"], graph_bytes: int) -> LossSurface:
        """The same loss over smaller batches, where the graph of all takes `graph_bytes` and batches may be
        cut: a piece's takes about `PIECE_BYTES`. On a processor with two threads a product with 1,000 images
        of a ResNet-20 took 12 to 14 s so, and 14 to 16 s in batches of 500; a graphics card wants all that it
        holds at once."""
        most = max(PIECE_BYTES, PIECE_VECTORS * w.nbytes)
        if graph_bytes <= most or graph_bytes == UNKNOWN_BYTES or w.is_cuda or self.joint:
            return self
        if not all(map(can_be_cut, self.batches)):
            return self
        n = sum(len(y) for _, y in self.own_batches)
        pieces: list[Batch] = []
        for x, y in self.batches:
            # at least two examples each: a model may squeeze the dimension of a single one away
            parts = max(1, min(round(len(y) * graph_bytes / n / most), len(y) // 2))
            ends = [len(y) * i // parts for i in range(parts + 1)]
            pieces += [(x[i:j], y[i:j]) for i, j in itertools.pairwise(ends)]
        return replace(self, batches=tuple(pieces))

    def gradient_graph(self, w: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """The gradient in w of this process's share of L, with its graph."""
        return torch.autograd.grad(self.total(w), w, create_graph=True, materialize_grads=True)[0]

    def single(self, batch: Batch) -> LossSurface:
        """The surface of one batch, evaluated by this process alone."""
        return replace(self, batches=(batch,), processes=ALONE, known=None)

    def weighted_batches(self) -> Iterator[tuple[float, Batch]]:
        """This process's batches, each with its weight n_b / n in the mean."""
        n = sum(self.weigh(batch) for batch in self.batches)
        weighted = ((self.weigh(batch), batch) for batch in self.own_batches)
        return ((weight / n, batch) for weight, batch in weighted if weight > 0)

    def _batch_terms(self, w: Tensor) -> Iterator[Tensor]:
        """The summands (n_b / n) (loss + penalty) of L(w), one for each batch of this process, computed one
        at a time."""
        for weight, (x, y) in self.weighted_batches():
            term = self.loss(self.predict(w, x), y)
            if self.penalty is not None:
                term = term + self.penalty(w)
            yield term if weight == 1 else term * weight

    @staticmethod
    def _sum(w: Tensor, terms: Iterable[Tensor]) -> Tensor:
        """The sum of the terms; for a process without examples a zero that depends on w, which can be
        differentiated."""
        total = None
        for term in terms:
            total = term if total is None else total + term
        return w.sum() * 0 if total is None else total


def whole_loss(grad: Grad, rule: str) -> LossSurface:
    """The surface whose gradient function an update rule was given (its attribute `whole`). Raises Refusal,
    naming the optimizer `rule`, for a gradient that another rule has modified, such as SAM's."""
    surface: LossSurface | None = getattr(grad, "whole", None)
    if surface is None:
        raise Refusal(f"optimizer={rule} needs the training loss itself; it is no base for another rule")
    return surface
