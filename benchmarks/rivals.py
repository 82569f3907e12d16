"""The Hessian of a mean loss by PyHessian 0.1, hessian-eigenthings 1.0.0a5, and curvlinops 3.0.1 with SciPy.

Each library is a class. What it does once (a copy of the module, the operator) is in its construction, which
is not timed; what it must do again at each point is in its methods, which are timed; `at` moves it to other
parameters. Flat vectors are in the order of `module.parameters()`.

PyHessian has no Hutch++ and takes no start vector; hessian-eigenthings has no XTrace; only curvlinops
multiplies several vectors at once. Power iteration finds the eigenvalues that are largest in magnitude, so
that more than k are computed until k of them are positive.
"""

from __future__ import annotations

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import curvlinops
import hessian_eigenthings as he
import numpy as np
import pyhessian
import torch
from curvlinops.papyan2020traces.spectrum import fast_lanczos
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Sequence[tuple[Tensor, Tensor]]
Product = Callable[[Tensor], Tensor]
Array = np.ndarray
pyhessian_module = importlib.import_module("pyhessian.hessian")  # pyhessian.hessian itself is the class in it


@dataclass(frozen=True)
class Result:
    """`values` are eigenvalues, largest first; or one trace; or the nodes [probes, steps] of a quadrature,
    with the `weights` of the same shape, each row of which sums to one. `products` is the number of Hessian
    products spent. Where the library states them, `vectors` [k, D] are the eigenvectors, `residuals` |A v -
    value v| of each or the standard error of a trace, and `converged` is the result of the library's test."""

    values: Array
    products: int | None = None
    vectors: Array | None = None
    residuals: Array | None = None
    converged: bool | None = None
    weights: Array | None = None


class Rival:
    """A copy of the module in eval mode, which a library may change, and the batches whose mean loss it is
    about; `products` counts the products that the library makes."""

    def __init__(self, module: nn.Module, loss: Loss, batches: Batches) -> None:
        self.module, self.loss, self.batches = copy.deepcopy(module).eval(), loss, list(batches)
        self.params = list(self.module.parameters())
        self.size = sum(p.numel() for p in self.params)
        self.examples = sum(len(x) for x, _ in self.batches)
        self.products = 0

    def at(self, w: Tensor) -> Self:
        """Moves to the parameters w [D]."""
        with torch.no_grad():
            for p, part in zip(self.params, self.split(w), strict=True):
                p.copy_(part)
        return self

    def split(self, v: Tensor) -> list[Tensor]:
        """A flat vector in the shapes of the parameters."""
        return [
            part.view_as(p)
            for part, p in zip(v.split([p.numel() for p in self.params]), self.params, strict=True)
        ]

    def vector(self, start: Array | Tensor | None) -> Tensor | None:
        """A start vector [D], or the sum of several [k, D], on the module's device; None for None."""
        if start is None:
            return None
        v = torch.as_tensor(start, dtype=self.params[0].dtype, device=self.params[0].device)
        return v if v.ndim == 1 else v.sum(0)

    @contextmanager
    def counted(self, seed: int = 0) -> Iterator[None]:
        """Within it products are counted from zero, and torch's global random numbers come from `seed`."""
        self.products = 0
        with torch.random.fork_rng(devices=sorted({p.device.index for p in self.params if p.is_cuda})):
            torch.manual_seed(seed)
            yield

    def dominant(self, k: int, budget: int, run: Callable[[int, int], Result]) -> Result:
        """The algebraically largest k eigenvalues by run(n, iterations), a method that finds the n largest in
        magnitude: n is doubled until k of them are positive, or the products of the budget are spent."""
        n = min(k, self.size)
        while True:
            result = run(n, max(2, (budget - self.products) // n))
            if n == self.size or (result.values > 0).sum() >= k or self.products + 2 * n >= budget:
                break
            n = min(2 * n, self.size)
        order = np.argsort(-result.values)[:k]
        vectors = cast(Array, result.vectors)[order]
        residuals = None if result.residuals is None else result.residuals[order]
        return Result(result.values[order], self.products, vectors, residuals, result.converged)


class PyHessian(Rival):
    """PyHessian: power iteration with deflation, Hutchinson, stochastic Lanczos quadrature.

    One batch is given to it as `data`, for which it keeps the graph of the gradient, several as `dataloader`,
    for which each product builds the graph again. Its `density` calls `torch.eig`, which torch has no more;
    while it runs torch has one.
    """

    @contextmanager
    def opened(self, seed: int = 0) -> Iterator[Any]:
        """Within it there is PyHessian's object at these parameters, whose construction computes the gradient
        and its graph; its products are counted."""

        def counted_product(grads: list[Tensor], params: list[Tensor], v: list[Tensor]) -> tuple[Tensor, ...]:
            self.products += 1
            return torch_product(grads, params, v)

        def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
            values, vectors = torch.linalg.eigh(T)
            return torch.stack([values, torch.zeros_like(values)], 1), vectors

        torch_product, torch_eig = pyhessian_module.hessian_vector_product, getattr(torch, "eig", None)
        pyhessian_module.hessian_vector_product, torch.eig = counted_product, eig
        try:
            with self.counted(seed), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*create_graph=True.*")
                yield self.hessian()
        finally:
            pyhessian_module.hessian_vector_product = torch_product
            if torch_eig is None:
                del torch.eig
            else:
                torch.eig = torch_eig
            self.module.zero_grad()

    def hessian(self) -> Any:
        """PyHessian's object; its products over several batches are counted."""
        self.module.zero_grad()
        source = {"data": self.batches[0]} if len(self.batches) == 1 else {"dataloader": self.batches}
        hessian = pyhessian.hessian(self.module, self.loss, cuda=self.params[0].is_cuda, **source)
        product_over_batches = hessian.dataloader_hv_product

        def counted_product(v: list[Tensor]) -> tuple[float, list[Tensor]]:
            self.products += 1
            return product_over_batches(v)

        hessian.dataloader_hv_product = counted_product
        return hessian

    def top(self, k: int, tol: float, start: Array | Tensor | None = None, budget: int = 400) -> Result:
        """Power iteration. It takes no `start`; tol bounds the change in the last iteration, not the
        error."""
        with self.opened() as hessian:

            def run(n: int, iterations: int) -> Result:
                values, vectors = hessian.eigenvalues(maxIter=iterations, tol=tol, top_n=n)
                flat = np.stack([torch.cat([p.reshape(-1) for p in v]).cpu().numpy() for v in vectors])
                converged = self.products < iterations if n == 1 else None
                return Result(np.array(values), None, flat, None, converged)

            return self.dominant(k, budget, run)

    def trace(self, probes: int, seed: int) -> Result:
        """Hutchinson with `probes` probes of signs, and no tolerance: PyHessian's stops at once where the
        mean is negative."""
        with self.opened(seed) as hessian:
            samples = np.array(hessian.trace(maxIter=probes, tol=-np.inf))
        return Result(np.array([samples.mean()]), self.products, residuals=_standard_error(samples))

    def density(self, probes: int, steps: int, seed: int) -> Result:
        """Stochastic Lanczos quadrature with full orthogonalization, which cannot be switched off."""
        with self.opened(seed) as hessian:
            nodes, weights = hessian.density(iter=steps, n_v=probes)
        return Result(np.array(nodes), self.products, weights=np.array(weights))

    def product(self) -> Product:
        """The function v -> H v at these parameters."""
        with self.opened() as hessian:
            pass

        def product(v: Tensor) -> Tensor:
            if hessian.full_dataset:
                tensors = hessian.dataloader_hv_product(self.split(v))[1]
            else:
                tensors = pyhessian.hessian_vector_product(hessian.gradsH, hessian.params, self.split(v))
            return torch.cat([tensor.reshape(-1) for tensor in tensors])

        return product


class Eigenthings(Rival):
    """hessian-eigenthings: Lanczos of a fixed number of steps, power iteration, Hutchinson, Hutch++,
    quadrature.

    It averages over batches, so that batches of unequal size are weighted in the loss function. `method` says
    how it makes a product: "autograd", which is exact, or "finite_difference", of two gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Batches,
        method: Literal["autograd", "finite_difference"] = "autograd",
    ) -> None:
        super().__init__(module, loss, batches)
        rival = self

        class Counted(he.HessianOperator):
            def matvec(self, v: Tensor) -> Tensor:
                rival.products += 1
                return super().matvec(v)

        def weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return loss(model(x), y) * (len(x) * len(self.batches) / self.examples)

        is_equal = len({len(x) for x, _ in self.batches}) == 1
        loss_of_batch = he.supervised_loss(loss) if is_equal else weighted
        self.operator = Counted(self.module, self.batches, loss_of_batch, method=method)

    def top(
        self,
        k: int,
        tol: float,
        start: Array | Tensor | None = None,
        budget: int = 400,
        steps: int | None = None,
        reorthogonalize: bool | None = None,
    ) -> Result:
        """Lanczos of `steps` steps; for None of max(20, 10 k) steps, and of twice as many from the beginning
        until it converges, since the library cannot continue.

        `reorthogonalize` is by default on for k > 1: without it the library returns copies of the first
        eigenpair.
        """
        reorthogonalize = k > 1 if reorthogonalize is None else reorthogonalize
        options: dict[str, Any] = {"tol": tol, "which": "LA", "seed": 0, "reorthogonalize": reorthogonalize}
        with self.counted():
            n, first = min(steps or max(20, 10 * k), budget, self.size), self.vector(start)
            while True:
                if first is None:
                    result = _as_result(he.lanczos(self.operator, k=k, max_iter=n, **options), self.products)
                else:
                    result = self._lanczos_from(first, k, tol, n, reorthogonalize)
                if result.converged or steps is not None or n == self.size or self.products + n >= budget:
                    return result
                n = min(2 * n, budget - self.products, self.size)

    def _lanczos_from(self, first: Tensor, k: int, tol: float, steps: int, reorthogonalize: bool) -> Result:
        """The library's `lanczos` from a start vector, which that function does not take: by the library's
        public kernel, and the rest as the function does it."""
        run = he.lanczos_tridiagonal(self.operator, first, steps, reorthogonalize=reorthogonalize)
        T = torch.diag(run.alphas)
        off_diagonal = run.betas[: len(run.alphas) - 1]
        T += torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
        theta, s = torch.linalg.eigh(T)
        theta, s = theta.flip(0)[:k], s.flip(1)[:, :k]
        vectors = torch.stack(run.basis, 1) @ s
        residuals = s[-1].abs() * run.last_beta
        converged = len(theta) == k and bool((residuals < tol * theta.abs()).all())
        return Result(
            theta.cpu().numpy(), self.products, vectors.T.cpu().numpy(), residuals.cpu().numpy(), converged
        )

    def power(self, k: int, tol: float, start: Array | Tensor | None = None, budget: int = 400) -> Result:
        """Power iteration with deflation to a residual of tol; from `start` for k = 1, for which alone the
        library takes a start."""
        first = self.vector(start)

        def run(n: int, iterations: int) -> Result:
            if n == 1 and first is not None:
                value, v, residual, _, converged = he.power_iteration_one(
                    self.operator, max_iter=iterations, tol=tol, init=first
                )
                return Result(np.array([value]), None, v[None].cpu().numpy(), np.array([residual]), converged)
            pairs = he.deflated_power_iteration(self.operator, k=n, max_iter=iterations, tol=tol, seed=0)
            return _as_result(pairs)

        with self.counted():
            return self.dominant(k, budget, run)

    def trace(self, probes: int, seed: int, method: Literal["hutchinson", "hutch++"] = "hutch++") -> Result:
        """The library's estimate from `probes` products."""
        with self.counted():
            trace = he.trace(self.operator, num_matvecs=probes, method=method, seed=seed)
        return Result(np.array([trace.estimate]), self.products, residuals=np.array([trace.stderr]))

    def density(self, probes: int, steps: int, seed: int) -> Result:
        """Stochastic Lanczos quadrature with full orthogonalization, which cannot be switched off, smoothed
        on a grid of 2 points, which costs next to nothing."""
        with self.counted():
            density = he.spectral_density(
                self.operator, num_runs=probes, lanczos_steps=steps, num_grid_points=2, seed=seed
            )
        nodes, weights = density.raw_eigenvalues.cpu().numpy(), density.raw_weights.cpu().numpy()
        return Result(nodes, self.products, weights=weights)

    def product(self) -> Product:
        """The function v -> H v at these parameters."""
        return self.operator.matvec


class _MeanLoss(nn.Module):
    """A loss function as the module that curvlinops takes: one with a `reduction`."""

    reduction = "mean"

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of a batch."""
        return self.loss(outputs, targets)


class Curvlinops(Rival):
    """curvlinops and SciPy: ARPACK's Lanczos with restarts, Hutchinson, Hutch++, XTrace, quadrature.

    The library's check that the operator is deterministic and its pass over the data that counts the examples
    are switched off.
    """

    def __init__(self, module: nn.Module, loss: Loss, batches: Batches) -> None:
        super().__init__(module, loss, batches)
        rival = self

        class Counted(curvlinops.HessianLinearOperator):
            def _matmat(self, M: list[Tensor]) -> list[Tensor]:
                rival.products += M[0].shape[-1]
                return super()._matmat(M)

        self.operator = Counted(
            self.module,
            _MeanLoss(loss),
            self.params,
            self.batches,
            check_deterministic=False,
            num_data=self.examples,
        )

    def top(
        self,
        k: int,
        tol: float,
        start: Array | Tensor | None = None,
        budget: int = 400,
        ncv: int | None = None,
        dtype: type | None = None,
    ) -> Result:
        """ARPACK to a residual of tol times the eigenvalue, with `ncv` vectors (for None max(2 k + 1, 20)).

        `dtype` is that of ARPACK's vectors (for None float32, which is faster, down to a tol of 1e-5);
        products are in the module's. `budget` bounds the number of restarts, so that a few products more may
        be spent. ARPACK takes at least `ncv` + 1 products: from a good start, and for k = 1 where the
        eigenvalue stands out, a small `ncv` ends sooner.
        """
        dtype = dtype or (np.float32 if tol >= 1e-5 else np.float64)
        first = self.vector(start)
        v0 = np.random.default_rng(0).standard_normal(self.size) if first is None else first.cpu().numpy()
        width = min(ncv or max(2 * k + 1, 20), self.size)
        restarts = max(1, (budget - width) // max(1, width - k))
        options: dict[str, Any] = {"k": k, "which": "LA", "tol": tol, "ncv": width, "maxiter": restarts}
        with self.counted():
            try:
                values, vectors = eigsh(self.operator.to_scipy(dtype=dtype), v0=v0.astype(dtype), **options)
                converged = True
            except ArpackNoConvergence as problem:
                values, vectors, converged = problem.eigenvalues, problem.eigenvectors, False
        order = np.argsort(-values)
        return Result(values[order], self.products, vectors.T[order], None, converged)

    def trace(
        self,
        probes: int,
        seed: int,
        method: Literal["hutchinson", "hutch++", "xtrace"] = "xtrace",
        block: int | None = None,
    ) -> Result:
        """The library's estimate from `probes` products (a multiple of 3 for Hutch++, of 2 for XTrace), all
        of them at once.

        Hutchinson can be had in blocks of `block` probes, which are averaged, where all probes at once do not
        fit the memory.
        """
        with self.counted(seed):
            if method == "hutchinson":
                block = block or probes
                sizes = [min(block, probes - i) for i in range(0, probes, block)]
                value = sum(float(curvlinops.hutchinson_trace(self.operator, n)) * n for n in sizes) / probes
            elif method == "hutch++":
                value = float(curvlinops.hutchpp_trace(self.operator, probes - probes % 3))
            else:
                value = float(curvlinops.xtrace(self.operator, probes - probes % 2))
        return Result(np.array([value]), self.products)

    def density(self, probes: int, steps: int, seed: int) -> Result:
        """The library's Lanczos kernel, which does not reorthogonalize: its `lanczos_approximate_spectrum`
        without the smoothing and the bounds of the spectrum."""
        with self.counted(seed):
            runs = [fast_lanczos(self.operator, steps) for _ in range(probes)]
        nodes = np.stack([values.cpu().numpy() for values, _ in runs])
        weights = np.stack([(vectors[0] ** 2).cpu().numpy() for _, vectors in runs])
        return Result(nodes, self.products, weights=weights)

    def product(self) -> Product:
        """The function v -> H v at these parameters, of a vector [D] or several [D, n]."""
        return lambda v: self.operator @ v


def _as_result(pairs: he.EigenResult, products: int | None = None) -> Result:
    """The eigenpairs that hessian-eigenthings returns as a `Result`."""
    values, vectors, residuals = (
        tensor.cpu().numpy() for tensor in (pairs.eigenvalues, pairs.eigenvectors, pairs.residuals)
    )
    return Result(values, products, vectors, residuals, bool(pairs.converged.all()))


def _standard_error(samples: Array) -> Array | None:
    """The standard error [1] of the samples' mean; None of a single sample."""
    return np.array([samples.std(ddof=1) / len(samples) ** 0.5]) if len(samples) > 1 else None
