"""Products with the Hessian, the Gauss-Newton matrix and the second moment of gradients at a point, and third
derivatives, by differentiating the graph of the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from sharpcli.errors import NotFinite, Refusal
from sharpcli.landscape.batches import Batch
from sharpcli.landscape.compiled_products import CompiledProducts
from sharpcli.landscape.distributed import Processes

# in what PyTorch says of a layer that it cannot differentiate again
NO_DERIVATIVE = ("is not implemented", "order derivatives", "support automatic differentiation")


@runtime_checkable
class Loss(Protocol):
    """What the products need of a `LossSurface`, where each of these is explained."""

    @property
    def predict(self) -> Callable[[Tensor, Tensor], Tensor]: ...  # noqa: D102
    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]: ...  # noqa: D102
    @property
    def penalty(self) -> Callable[[Tensor], Tensor] | None: ...  # noqa: D102
    @property
    def graph_budget(self) -> int: ...  # noqa: D102
    @property
    def processes(self) -> Processes: ...  # noqa: D102
    @property
    def compiled(self) -> CompiledProducts | None: ...  # noqa: D102
    def grad(self, w: Tensor) -> Tensor: ...  # noqa: D102
    def graph_bytes(self, w: Tensor) -> int: ...  # noqa: D102
    def in_pieces(self, w: Tensor, graph_bytes: int) -> Loss: ...  # noqa: D102
    def gradient_graph(self, w: Tensor) -> Tensor: ...  # noqa: D102
    def weighted_batches(self) -> Iterator[tuple[float, Batch]]: ...  # noqa: D102
    def single(self, batch: Batch) -> Loss: ...  # noqa: D102


class Linearization:
    """The gradient `grad` [D] at w, and the products there with the Hessian, the Gauss-Newton matrix and the
    second moment of the examples' gradients.

    A Hessian product differentiates g(w).v, g = grad L; the others are J^T M J v, J the Jacobian of the
    outputs. If the graphs of g fit `graph_budget` (`kept`), they are built once for all products, one for
    each batch. Otherwise each call rebuilds them batch by batch, and one call with a block of vectors is
    cheaper than a call for each. A large batch is cut (`LossSurface.in_pieces`): a product needs the memory
    of one piece beside the graphs that are kept.

    Every product is checked once: `errors.NotFinite` is raised where it holds NaN or infinity.

    Products take one vector [D] or a block [m, D] and treat the rows in turn: batching them by `vmap`
    (`is_grads_batched`) takes 1.6 times as long for a ResNet, and slightly longer for an mlp.
    """

    def __init__(self, surface: Loss, w: Float[Tensor, " D"], graph_bytes: int | None = None) -> None:
        """`graph_bytes`: what `surface.graph_bytes(w)` would give, where that is known."""
        graph_bytes = surface.graph_bytes(w) if graph_bytes is None else graph_bytes
        self.graph_bytes = graph_bytes
        # decided together: by it processes sum vectors one by one, or many at once
        self.kept = surface.processes.all(graph_bytes <= surface.graph_budget, w)
        self._surface = surface
        self._pieces = surface.in_pieces(w, graph_bytes)
        self._w = w.detach().requires_grad_()
        self._graphs: list[tuple[float, Tensor]] | None = None
        self._outputs: list[_Outputs] | None = None
        self._grad: Tensor | None = None

    @property
    def grad(self) -> Float[Tensor, " D"]:
        """grad L(w), without a graph; computed once."""
        if self._grad is None:
            surface = self._surface
            if self.kept:
                total = torch.zeros_like(self._w, requires_grad=False)
                for weight, graph in self._kept_graphs():
                    total += graph.detach() * weight
                self._grad = surface.processes.sum(total)
            else:
                self._grad = surface.grad(self._w)
        return self._grad

    @property
    def graph_grad(self) -> Float[Tensor, " D"] | None:
        """grad L(w) where a graph of it has been built and kept; None where it would have to be computed."""
        return None if self._graphs is None else self.grad

    def hvp(self, V: Float[Tensor, "*m D"]) -> Float[Tensor, "*m D"]:
        """H v for a vector or for each row v of a block, H the Hessian of L."""
        if V.ndim == 1:
            return self.hvp(V[None])[0]
        surface = self._surface
        product = None
        if surface.compiled is not None and surface.penalty is None:
            product = surface.compiled.product(surface.predict, V.device, len(V))
        total = torch.zeros_like(V)
        if product is not None:
            for weight, (x, y) in surface.weighted_batches():
                total += torch.stack([product(self._w.detach(), v, x, y) for v in V]) * weight
        else:
            for weight, graph in self._kept_graphs() if self.kept else self._batch_graphs():
                total += _graph_products(graph, self._w, V) * weight
        return finite(surface.processes.sum(total), "Hessian")

    def ggn(self, V: Float[Tensor, "*m D"]) -> Float[Tensor, "*m D"]:
        """G v for a vector or for each row v of a block, G = (1/n) sum_i J_i^T (d^2 loss_i / d f_i^2) J_i the
        Gauss-Newton matrix, J_i [C, D] the Jacobian of example i's outputs (Schraudolph 2002).

        For cross-entropy G is the Fisher matrix. The Hessian of a penalty is added to G.
        """
        product = self._through_outputs(V, lambda outputs, JV: outputs.curved(JV))
        if self._surface.penalty is not None:
            penalty_grad = torch.autograd.grad(
                self._surface.penalty(self._w), self._w, create_graph=True, materialize_grads=True
            )[0]
            rows = V.reshape(-1, V.shape[-1])
            product = product + _graph_products(penalty_grad, self._w, rows).view_as(V)
        return finite(product, "Gauss-Newton matrix")

    def second_moment(self, V: Float[Tensor, "*m D"]) -> Float[Tensor, "*m D"]:
        """M v for a vector or for each row v of a block, M = (1/n) sum_i g_i g_i^T over the gradients g_i of
        single examples, without a penalty. Their covariance is M - g g^T. Only meaningful if the outputs of
        an example do not depend on other examples."""
        product = self._through_outputs(V, lambda outputs, JV: outputs.squared(JV))
        return finite(product, "second moment of the gradients")

    def _batch_graphs(self) -> Iterator[tuple[float, Tensor]]:
        """For each batch of this process its weight and its gradient with its graph, built one at a time."""
        for weight, batch in self._pieces.weighted_batches():
            yield weight, self._pieces.single(batch).gradient_graph(self._w)

    def _kept_graphs(self) -> list[tuple[float, Tensor]]:
        """Those of all batches, built once."""
        if self._graphs is None:
            self._graphs = list(self._batch_graphs())
        return self._graphs

    def _through_outputs(self, V: Tensor, middle: Callable[[_Outputs, Tensor], Tensor]) -> Tensor:
        """J^T middle(J v) for a vector or for each row v of a block, averaged over batches; the outputs'
        graphs are kept if the surface's is."""
        if V.ndim == 1:
            return self._through_outputs(V[None], middle)[0]
        if self.kept and self._outputs is None:
            self._outputs = list(self._batch_outputs())
        total = torch.zeros_like(V)
        for outputs in self._batch_outputs() if self._outputs is None else self._outputs:
            total += torch.stack([outputs.pull(middle(outputs, outputs.push(v))) for v in V]) * outputs.weight
        return self._surface.processes.sum(total)

    def _batch_outputs(self) -> Iterator[_Outputs]:
        """The outputs of each batch of this process, built one at a time."""
        return (_Outputs(self._surface, self._w, *item) for item in self._pieces.weighted_batches())


class _Outputs:
    """The outputs f [n_b, ...] of a batch at w and products with their Jacobian J and the Hessian of the mean
    loss in f, from two graphs: J^T u as a function of u, whose derivative along v is J v, and the loss as a
    function of f."""

    def __init__(self, surface: Loss, w: Tensor, weight: float, batch: Batch) -> None:
        x, y = batch
        self.w, self.weight, self.n = w, weight, len(y)
        self.f, outputs_of = _one_tensor(surface.predict(w, x), lambda outputs: surface.loss(outputs, y))
        self.u = torch.zeros_like(self.f, requires_grad=True)
        self.JTu = vjp(self.f, w, self.u, create_graph=True)
        self.leaf = self.f.detach().requires_grad_()  # f as an independent variable of the loss
        loss = surface.loss(outputs_of(self.leaf), y)
        (self.slope,) = torch.autograd.grad(loss, self.leaf, create_graph=True)

    def push(self, v: Float[Tensor, " D"]) -> Tensor:
        """J v, of the shape of f."""
        return vjp(self.JTu, self.u, v, retain_graph=True)

    def pull(self, u: Tensor) -> Float[Tensor, " D"]:
        """J^T u, for u of the shape of f."""
        return vjp(self.f, self.w, u, retain_graph=True)

    def curved(self, JV: Float[Tensor, "*f"]) -> Float[Tensor, "*f"]:
        """The Hessian of the batch's mean loss in f, times JV; zero for a loss linear in f."""
        if not self.slope.requires_grad:
            return torch.zeros_like(JV)
        return vjp(self.slope, self.leaf, JV, retain_graph=True)

    def squared(self, JV: Float[Tensor, "*f"]) -> Float[Tensor, "*f"]:
        """(1 / n_b) r_i (r_i.JV_i) for each example i, r_i the gradient of its own loss in its outputs."""
        r = self.slope.detach() * self.n
        if len(r) != self.n:
            raise Refusal(
                f"the outputs are {list(self.f.shape)} for {self.n} examples, and the gradients of single "
                f"examples need outputs with the examples along the first dimension"
            )
        along = (r * JV).reshape(self.n, -1).sum(1).view(-1, *[1] * (r.ndim - 1))
        return r * along / self.n


def _one_tensor(
    outputs: Any, loss: Callable[[Any], Tensor]
) -> tuple[Float[Tensor, "n ..."], Callable[[Tensor], Any]]:
    """The outputs that the loss uses as one tensor f [n, ...], and the function that makes the model's
    structure of outputs of it. Refuses a loss that the model computes itself."""
    if isinstance(outputs, Tensor):
        if not outputs.ndim:
            raise Refusal(
                "the outputs are inside of this loss, and the Gauss-Newton matrix and the gradients of "
                "single examples need them; give loss(outputs, targets) and a model that returns its outputs"
            )
        return outputs, lambda f: f
    leaves, form = tree_flatten(outputs)
    real = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not real:
        raise Refusal(
            f"the outputs are a {type(outputs).__name__}, whose tensors are not known, and the Gauss-Newton "
            f"matrix and the gradients of single examples need them; return a tensor, a tuple or a dict"
        )
    apart = [leaf.detach().requires_grad_() if i in real else leaf for i, leaf in enumerate(leaves)]
    value = loss(tree_unflatten(apart, form))
    slopes = torch.autograd.grad(value, [apart[i] for i in real], allow_unused=True)
    used = [i for i, slope in zip(real, slopes, strict=True) if slope is not None]
    shapes = [leaves[i].shape for i in used]
    if not all(shapes) or len({shape[:1] for shape in shapes}) != 1:
        said = ", ".join(str(list(shape)) for shape in shapes)
        raise Refusal(
            f"the loss uses outputs of the shapes {said}, and the Gauss-Newton matrix and the gradients of "
            f"single examples need all of them with the examples along the first dimension"
        )
    flattened = [leaves[i].reshape(len(leaves[i]), -1) for i in used]

    def outputs_of(f: Tensor) -> Any:
        parts = f.split([t.shape[1] for t in flattened], 1)
        given = dict(zip(used, (p.view(s) for p, s in zip(parts, shapes, strict=True)), strict=True))
        return tree_unflatten([given.get(i, leaf) for i, leaf in enumerate(apart)], form)

    return torch.cat(flattened, 1), outputs_of


def vjp(
    y: Tensor, x: Tensor, u: Tensor, *, retain_graph: bool | None = None, create_graph: bool = False
) -> Tensor:
    """u^T dy/dx, of the shape of x, for u of the shape of y, as the gradient of the number <y, u>.

    Where y and u are given to it apart, PyTorch imports sympy to compare their shapes, which takes 0.8 s
    of a run's start. Zero where y does not depend on x."""
    u = u.clone() if u.is_inference() else u  # of a caller in inference mode, whose tensors no graph takes
    (product,) = torch.autograd.grad(
        (y * u).sum(), (x,), retain_graph=retain_graph, create_graph=create_graph, materialize_grads=True
    )
    return product


def finite(product: Tensor, matrix: str) -> Tensor:
    """The product itself. Raises NotFinite, naming the `matrix`, if an entry is NaN or infinite.

    The sum is one pass over the product and keeps every NaN and infinity; it may also overflow where all
    entries are finite, which a second pass tells apart.
    """
    if not math.isfinite(float(product.detach().sum())) and not bool(product.isfinite().all()):
        raise NotFinite(f"the {matrix} is not finite at these weights")
    return product


def curvature_grad(g: Tensor, w: Tensor, v: Tensor) -> Tensor:
    """The gradient of v.Hv in w, from the graph of the gradient g [D]."""
    with refusing_no_derivative("third"):
        Hv = vjp(g, w, v, create_graph=True)
        return vjp(Hv, w, v, retain_graph=True) if Hv.requires_grad else torch.zeros_like(w)


def _graph_products(g: Tensor, w: Tensor, V: Tensor) -> Tensor:
    """The derivative of g.v in w for each row v of V, from the graph of g [D]; zero for a g that does not
    depend on w (a loss linear in w)."""
    if not g.requires_grad:
        return torch.zeros_like(V)
    with refusing_no_derivative("second"):
        return torch.stack([vjp(g, w, v, retain_graph=True) for v in V]).detach()


@contextmanager
def refusing_no_derivative(which: str) -> Iterator[None]:
    """Turns PyTorch's statement that a layer lacks a derivative into one line."""
    try:
        yield
    except RuntimeError as problem:
        if not any(phrase in str(problem) for phrase in NO_DERIVATIVE):
            raise
        raise Refusal(
            f"a {which} derivative is needed, and PyTorch says: {problem}; take a model with another layer "
            f"there"
        ) from None
