"""`sharp.hessian` and `sharp.gauss_newton`: curvature matrices of any model, loss and data as operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from sharpcli.api.arguments import real, size_in_bytes, whole
from sharpcli.api.measure import BASIS_GB, CHUNK, GRAPH_GB
from sharpcli.api.problem import Loss, Own, Weight, own
from sharpcli.api.refused import python
from sharpcli.engine.measuring import check_second_derivatives
from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import Curvature, Operator
from sharpcli.landscape.surface import LossSurface
from sharpcli.landscape.third_derivatives import check_third_derivatives
from sharpcli.linalg import trace as traces
from sharpcli.linalg.quadrature import Quadrature
from sharpcli.linalg.trace import Trace, signs
from sharpcli.rng import generator

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class Eigenpairs:
    """The k algebraically largest eigenvalues `values` [k] with their `errors` [k] (estimates) and
    `residuals` [k] (bounds), the unit eigenvectors as rows of `vectors` [k, D], the number of `products`
    spent, and whether all have `converged`."""

    values: Float64[Tensor, " k"]
    errors: Float64[Tensor, " k"]
    residuals: Float64[Tensor, " k"]
    vectors: Float[Tensor, "k D"]
    products: int | float
    converged: bool


class CurvatureOperator:
    """A symmetric curvature matrix A [D, D] of the mean loss at the model's weights of now, known by its
    products: `A @ v` for a vector [D], a block of columns [D, m], or a mapping from parameter names to
    tensors, whose missing parameters count as 0.

    The model is left as it was, and the graph of its gradient is kept for further products: a change of the
    weights afterwards does not reach the operator; frozen parameters, buffers and tensors of data that are
    written to may.
    """

    def __init__(self, kind: Operator, mine: Own, seed: int, basis_gb: float) -> None:
        self._kind, self._own = kind, mine
        self._seed, self._basis_bytes = whole("seed", seed, 0), size_in_bytes("basis_gb", basis_gb)

    @property
    def shape(self) -> tuple[int, int]:
        """(D, D), D the number of trainable weights."""
        D = len(self._own.problem.w0)
        return D, D

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the products."""
        return self._own.problem.w0.dtype

    @property
    def device(self) -> torch.device:
        """The device of the products."""
        return self._own.problem.w0.device

    @property
    def names(self) -> dict[str, torch.Size]:
        """The parameters' names and shapes, in the order of a flat vector."""
        return dict(self._own.problem.layout)

    @cached_property
    def _curvature(self) -> Curvature:
        problem = self._own.problem
        return Curvature(problem.surface, problem.w0, self._seed, 0, self._basis_bytes)

    @cached_property
    def grad(self) -> Float[Tensor, " D"]:
        """The gradient of the mean loss."""
        with self._own.untouched():
            return self._curvature.linearization.grad

    @python
    def __matmul__(self, v: Any) -> Any:
        """A v, of the form of v."""
        if isinstance(v, Mapping):
            return self._own.named(self._rows(self._own.vector(v)[None])[0])
        if not isinstance(v, Tensor) or v.ndim not in (1, 2) or len(v) != self.shape[0]:
            kind = f"shape {list(v.shape)}" if isinstance(v, Tensor) else type(v).__name__
            raise Refusal(
                f"A @ v: v of {kind}; give a tensor [D] or [D, m] with D = {self.shape[0]}, or a mapping "
                f"from parameter names to tensors"
            )
        if v.is_complex() or not v.numel():
            kind = "complex: take the products of its real and imaginary parts" if v.is_complex() else "empty"
            raise Refusal(f"A @ v: v of shape {list(v.shape)} is {kind}")
        rows = v[None] if v.ndim == 1 else v.T.contiguous()
        product = self._rows(rows.to(device=self.device, dtype=self.dtype)).to(v.device)
        return product[0] if v.ndim == 1 else product.T

    def _rows(self, V: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        with self._own.untouched():
            return self._curvature.matvec(self._kind)(V)

    def scipy_operator(self) -> LinearOperator:
        """The matrix for SciPy's solvers, `scipy.sparse.linalg.eigsh(H.scipy_operator(), k=5)`; float64 in,
        float64 out, products in the operator's own dtype."""
        from scipy.sparse.linalg import LinearOperator

        def product(V: Any) -> Any:
            columns = torch.from_numpy(V.reshape(len(V), -1).copy())
            out = (self @ columns).double().cpu().numpy()
            return out.reshape(V.shape)

        return LinearOperator(self.shape, matvec=product, matmat=product, rmatvec=product, dtype="float64")

    @python
    def eigenpairs(self, k: int = 1, *, tol: float = 1e-3, max_products: int = 200) -> Eigenpairs:
        """The k algebraically largest eigenpairs, each to an error of `tol` |lambda_1|."""
        k, max_products, tol = whole("k", k), whole("max_products", max_products), real("tol", tol)
        if k > self.shape[0] or not tol > 0 or max_products < k:
            raise Refusal(
                f"eigenpairs: k={k} tol={tol} max_products={max_products}; k from 1 to D = {self.shape[0]}, "
                f"tol above 0, max_products at least k"
            )
        with self._own.untouched():
            ritz = self._curvature.eigenpairs(self._kind, k, tol, max_products)
        return Eigenpairs(
            ritz.values, ritz.errors, ritz.residuals, ritz.vectors[:k], ritz.products, ritz.converged
        )

    @python
    def trace(
        self, *, rtol: float = 0.05, method: traces.Method = "hutchpp", max_products: int = 1000
    ) -> Trace:
        """Tr A by a random estimator, until 2 stderr, the half width of a 95 % interval, is 2 rtol |Tr A|;
        exact where D <= `max_products`."""
        rtol, max_products = real("rtol", rtol), whole("max_products", max_products)
        if not rtol > 0 or max_products < traces.MIN_SAMPLES or method not in get_args(traces.Method):
            raise Refusal(
                f"trace: rtol={rtol} max_products={max_products} method={method}; rtol above 0, at least 8 "
                f"products, one of {', '.join(get_args(traces.Method))}"
            )
        rng = generator(self._seed, "trace", 0)
        with self._own.untouched():
            return self._curvature.trace(self._kind, method, rng, rtol, max_products)

    @python
    def density(self, *, probes: int = 4, steps: int = 80) -> Quadrature:
        """The density of the eigenvalues as nodes and weights, by stochastic Lanczos quadrature; its `curve`
        smooths them."""
        probes, steps = whole("probes", probes), whole("steps", steps)
        with self._own.untouched():
            return self._curvature.quadrature(self._kind, probes, min(steps, self.shape[0]))[0]

    @python
    def diagonal(
        self, *, probes: int = 64, exact: bool = False
    ) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """The diagonal [D] of A and the standard error of each entry: the mean of z * A z over probes z of
        independent signs (Bekas, Kokiopoulou & Saad 2007), or with `exact` D products with unit vectors."""
        like, probes = self._own.problem.w0, whole("probes", probes)
        if exact or len(like) <= probes:
            diagonal = torch.zeros_like(like)
            for rows in torch.arange(len(like), device=like.device).split(32):
                units = torch.zeros(len(rows), len(like), dtype=like.dtype, device=like.device)
                units[range(len(rows)), rows] = 1
                diagonal[rows] = self._rows(units)[range(len(rows)), rows]
            return diagonal, torch.zeros_like(like)
        if probes < 2:
            raise Refusal(f"diagonal: probes={probes}; at least 2, for an error")
        rng = generator(self._seed, "diagonal", 0)
        mean, squares = torch.zeros_like(like).double(), torch.zeros_like(like).double()
        for i in range(1, probes + 1):
            z = signs(1, like, rng)
            sample = (z * self._rows(z))[0].double()
            step = sample - mean
            mean += step / i
            squares += step * (sample - mean)
        return mean.to(like), (squares / (probes - 1) / probes).sqrt().to(like)

    @python
    def dense(self) -> Float[Tensor, "D D"]:
        """The whole matrix, by D products. Refuses more than 20,000 rows (3 GB in float64)."""
        if self.shape[0] > 20_000:
            raise Refusal(f"dense: {self.shape[0]:,} rows; take products, or a block, of so large a matrix")
        with self._own.untouched():
            return self._curvature.dense(self._kind)

    @python
    def block(self, params: str | Sequence[str]) -> CurvatureOperator:
        """The diagonal block of the parameters whose names match a pattern, as in "layer4.*", the others held
        fixed."""
        return CurvatureOperator(self._kind, self._own.part(params), self._seed, self._basis_bytes / 1e9)

    def layers(self) -> dict[str, CurvatureOperator]:
        """The diagonal block of each layer: of all parameters whose names agree up to their last dot."""
        layers: dict[str, list[str]] = {}
        for name in self.names:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return {layer: self.block(names) for layer, names in layers.items()}

    def __repr__(self) -> str:
        kind = "Hessian" if self._kind == "hessian" else "Gauss-Newton matrix"
        surface = self._own.problem.surface
        return f"{kind} [{self.shape[0]}, {self.shape[0]}] of {surface.examples} examples, {self.dtype}"


class Hessian(CurvatureOperator):
    """The Hessian of the mean loss, with the third derivatives of the loss that go with it."""

    _checked = False  # whether third derivatives are known to be right

    @python
    def grad_trace(self, *, probes: int = 16) -> tuple[Float[Tensor, " D"], Float[Tensor, " D"]]:
        """The gradient of Tr H in the weights, and the standard error of each entry: the mean of grad (z.Hz)
        over probes z of independent signs."""
        probes = whole("probes", probes, 2)  # two for an error
        rng, w = generator(self._seed, "grad_trace", 0), self._own.problem.w0
        samples = [self._third(signs(1, w, rng)) for _ in range(probes)]
        stacked = torch.stack(samples)
        return stacked.mean(0), stacked.std(0) / probes**0.5

    @python
    def grad_lambda_1(self, *, tol: float = 1e-4, max_products: int = 400) -> Float[Tensor, " D"]:
        """The gradient of lambda_1 in the weights, grad (v.Hv) at its unit eigenvector v; it exists where
        lambda_1 is simple."""
        pairs = self.eigenpairs(1, tol=tol, max_products=max_products)
        return self._third(pairs.vectors)

    def _third(self, V: Float[Tensor, "m D"]) -> Float[Tensor, " D"]:
        with self._own.untouched():
            surface: LossSurface = self._own.problem.surface
            w = self._own.problem.w0
            if not self._checked:
                check_third_derivatives(surface, w)
                self._checked = True
            return surface.curvature_grad(w, V)


def _opened(
    model: nn.Module,
    loss: Loss,
    data: Any,
    params: str | Sequence[str] | None,
    weight: Weight | None,
    eval_mode: bool,
    chunk: int,
    examples: int | None,
    graph_gb: float,
    seed: int,
) -> Own:
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
    with mine.untouched():
        check_second_derivatives(mine.problem.surface, mine.problem.w0, seed, "the operator")
    return mine


@python
def hessian(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: str | Sequence[str] | None = None,
    weight: Weight | None = None,
    eval_mode: bool = False,
    seed: int = 0,
    chunk: int = CHUNK,
    examples: int | None = None,
    graph_gb: float = GRAPH_GB,
    basis_gb: float = BASIS_GB,
) -> Hessian:
    """The Hessian of the mean loss of a model on data in its trainable parameters, as an operator:

        H = sharp.hessian(model, loss, loader)
        H @ v, H.eigenpairs(5), H.trace(rtol=0.02), H.diagonal(), H.block("layer4.*"), H.scipy_operator()

    The arguments are those of `sharp.measure`. Raises `Refused` as it does, also where a layer's second
    derivative is wrong in this version of PyTorch.
    """
    mine = _opened(model, loss, data, params, weight, eval_mode, chunk, examples, graph_gb, seed)
    return Hessian("hessian", mine, seed, basis_gb)


@python
def gauss_newton(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: str | Sequence[str] | None = None,
    weight: Weight | None = None,
    eval_mode: bool = False,
    seed: int = 0,
    chunk: int = CHUNK,
    examples: int | None = None,
    graph_gb: float = GRAPH_GB,
    basis_gb: float = BASIS_GB,
) -> CurvatureOperator:
    """The Gauss-Newton matrix (1/n) sum_i J_i^T (d^2 loss_i / d f_i^2) J_i of a loss of outputs and targets,
    as an operator; for cross-entropy the Fisher matrix (Schraudolph 2002). Arguments and refusals as of
    `sharp.hessian`; a loss that takes the model hides the outputs, and is refused at the first product."""
    mine = _opened(model, loss, data, params, weight, eval_mode, chunk, examples, graph_gb, seed)
    return CurvatureOperator("gauss_newton", mine, seed, basis_gb)
