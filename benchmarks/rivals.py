"""The Hessian of a mean loss by PyHessian 0.1, hessian-eigenthings 1.0.0a5, and curvlinops 3.0.1 with SciPy.

Each library is a class: its construction (a copy of the module, the operator) is not for the clock, its
methods are, and `at` moves it to other parameters. Whatever a library must do again at each point is inside
the methods. Flat vectors are in the order of `module.parameters()`.

Not there: PyHessian has no Hutch++ and takes no start; hessian-eigenthings has no XTrace; only curvlinops
multiplies several vectors at once. Power iteration finds the largest in magnitude, so more are asked for
until k of them are positive.
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
internals = importlib.import_module("pyhessian.hessian")  # the package shadows this module with the class


@dataclass(frozen=True)
class Found:
    """Eigenvalues (largest first), a trace (one value), or quadrature nodes [probes, steps], and what they
    cost."""

    values: Array
    products: int | None = None
    vectors: Array | None = None  # [k, D]
    residuals: Array | None = (
        None  # |A v - value v| of each, or the standard error of a trace, where the library says
    )
    converged: bool | None = None  # by the library's own test
    weights: Array | None = None  # of the nodes; each row sums to one


class Contestant:
    """A copy of the module, in eval mode, that a library may change as it likes; and the batches."""

    def __init__(self, module: nn.Module, loss: Loss, batches: Batches) -> None:
        self.module, self.loss, self.batches = copy.deepcopy(module).eval(), loss, list(batches)
        self.params = list(self.module.parameters())
        self.size = sum(p.numel() for p in self.params)
        self.examples = sum(len(x) for x, _ in self.batches)
        self.products = 0

    def at(self, w: Tensor) -> Self:
        """Move to the parameters w [D]."""
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
        """One start vector [D] out of one or several: their sum."""
        v = (
            None
            if start is None
            else torch.as_tensor(start, dtype=self.params[0].dtype, device=self.params[0].device)
        )
        return v if v is None or v.ndim == 1 else v.sum(0)

    @contextmanager
    def counted(self, seed: int = 0) -> Iterator[None]:
        """Products counted from zero, and torch's global random numbers from `seed`."""
        self.products = 0
        with torch.random.fork_rng(devices=sorted({p.device.index for p in self.params if p.is_cuda})):
            torch.manual_seed(seed)
            yield

    def dominant(self, k: int, budget: int, run: Callable[[int, int], Found]) -> Found:
        """The algebraically largest k from a method that finds the largest in magnitude: more, until k are
        positive."""
        n = min(k, self.size)
        while True:
            found = run(n, max(2, (budget - self.products) // n))
            if n == self.size or (found.values > 0).sum() >= k or self.products + 2 * n >= budget:
                break
            n = min(2 * n, self.size)
        order = np.argsort(-found.values)[:k]
        vectors = cast(Array, found.vectors)[order]
        residuals = None if found.residuals is None else found.residuals[order]
        return Found(found.values[order], self.products, vectors, residuals, found.converged)


class PyHessian(Contestant):
    """PyHessian: power iteration with deflation, Hutchinson, stochastic Lanczos quadrature.

    One batch goes in as `data`, for which it keeps the graph of the gradient; several as `dataloader`, for
    which each product rebuilds it. `density` calls `torch.eig`, which torch no longer has: it is given one
    here.
    """

    @contextmanager
    def opened(self, seed: int = 0) -> Iterator[Any]:
        """Its object at these parameters: the gradient and its graph are made here."""

        def product(grads: list[Tensor], params: list[Tensor], v: list[Tensor]) -> tuple[Tensor, ...]:
            self.products += 1
            return kept[0](grads, params, v)

        def eig(T: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
            values, vectors = torch.linalg.eigh(T)
            return torch.stack([values, torch.zeros_like(values)], 1), vectors

        kept = internals.hessian_vector_product, getattr(torch, "eig", None)
        internals.hessian_vector_product, torch.eig = product, eig
        try:
            with self.counted(seed), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*create_graph=True.*")
                yield self.built()
        finally:
            internals.hessian_vector_product = kept[0]
            if kept[1] is None:
                del torch.eig
            else:
                torch.eig = kept[1]
            self.module.zero_grad()

    def built(self) -> Any:
        """Its object; products over several batches counted."""
        self.module.zero_grad()
        source = {"data": self.batches[0]} if len(self.batches) == 1 else {"dataloader": self.batches}
        made = pyhessian.hessian(self.module, self.loss, cuda=self.params[0].is_cuda, **source)
        over_batches = made.dataloader_hv_product

        def product(v: list[Tensor]) -> tuple[float, list[Tensor]]:
            self.products += 1
            return over_batches(v)

        made.dataloader_hv_product = product
        return made

    def top(self, k: int, tol: float, start: Array | Tensor | None = None, budget: int = 400) -> Found:
        """Power iteration; `start` is of no use to it, and tol bounds the change of the last iteration, not
        the error."""
        with self.opened() as made:

            def run(n: int, iterations: int) -> Found:
                values, vectors = made.eigenvalues(maxIter=iterations, tol=tol, top_n=n)
                flat = np.stack([torch.cat([p.reshape(-1) for p in v]).cpu().numpy() for v in vectors])
                return Found(
                    np.array(values), None, flat, None, self.products < iterations if n == 1 else None
                )

            return self.dominant(k, budget, run)

    def trace(self, probes: int, seed: int) -> Found:
        """Hutchinson with Rademacher probes; no tolerance, for its own stops at once where the mean is
        negative."""
        with self.opened(seed) as made:
            samples = np.array(made.trace(maxIter=probes, tol=-np.inf))
        return Found(np.array([samples.mean()]), self.products, residuals=_error(samples))

    def density(self, probes: int, steps: int, seed: int) -> Found:
        """Stochastic Lanczos quadrature, orthogonalised in full (there is no switch)."""
        with self.opened(seed) as made:
            nodes, weights = made.density(iter=steps, n_v=probes)
        return Found(np.array(nodes), self.products, weights=np.array(weights))

    def product(self) -> Product:
        """A product at these parameters."""
        with self.opened() as made:
            pass
        if made.full_dataset:
            return lambda v: torch.cat([h.reshape(-1) for h in made.dataloader_hv_product(self.split(v))[1]])

        def product(v: Tensor) -> Tensor:
            return torch.cat(
                [
                    h.reshape(-1)
                    for h in pyhessian.hessian_vector_product(made.gradsH, made.params, self.split(v))
                ]
            )

        return product


class Eigenthings(Contestant):
    """hessian-eigenthings: Lanczos of a fixed number of steps, power iteration, Hutchinson, Hutch++,
    quadrature.

    It averages over batches, so unequal ones are weighted in the loss function. `method` is its way to a
    product: "autograd", exact, or "finite_difference", two gradients.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        batches: Batches,
        method: Literal["autograd", "finite_difference"] = "autograd",
    ) -> None:
        super().__init__(module, loss, batches)
        contestant = self

        class Counted(he.HessianOperator):
            def matvec(self, v: Tensor) -> Tensor:
                contestant.products += 1
                return super().matvec(v)

        def weighted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return loss(model(x), y) * (len(x) * len(self.batches) / self.examples)

        equal = len({len(x) for x, _ in self.batches}) == 1
        of_batch = he.supervised_loss(loss) if equal else weighted
        self.operator = Counted(self.module, self.batches, of_batch, method=method)

    def top(
        self,
        k: int,
        tol: float,
        start: Array | Tensor | None = None,
        budget: int = 400,
        steps: int | None = None,
        reorthogonalize: bool | None = None,
    ) -> Found:
        """Lanczos of `steps` steps; None: max(20, 10 k), and from the beginning with twice as many until
        converged.

        It cannot go on from where it stopped. Reorthogonalised for k > 1 (None): it returns copies of the
        first otherwise.
        """
        reorthogonalize = k > 1 if reorthogonalize is None else reorthogonalize
        with self.counted():
            n, first = min(steps or max(20, 10 * k), budget, self.size), self.vector(start)
            while True:
                if first is None:
                    r = he.lanczos(
                        self.operator,
                        k=k,
                        max_iter=n,
                        tol=tol,
                        which="LA",
                        seed=0,
                        reorthogonalize=reorthogonalize,
                    )
                    found = _eigen(r, self.products)
                else:
                    found = self._from(first, k, tol, n, reorthogonalize)
                if found.converged or steps is not None or n == self.size or self.products + n >= budget:
                    return found
                n = min(2 * n, budget - self.products, self.size)

    def _from(self, first: Tensor, k: int, tol: float, steps: int, reorthogonalize: bool) -> Found:
        """Its public Lanczos kernel from a start, which its `lanczos` does not take; the rest as `lanczos`
        does."""
        run = he.lanczos_tridiagonal(self.operator, first, steps, reorthogonalize=reorthogonalize)
        T = torch.diag(run.alphas)
        off = run.betas[: len(run.alphas) - 1]
        T += torch.diag(off, 1) + torch.diag(off, -1)
        theta, s = torch.linalg.eigh(T)
        theta, s = theta.flip(0)[:k], s.flip(1)[:, :k]
        vectors = torch.stack(run.basis, 1) @ s
        residuals = s[-1].abs() * run.last_beta
        converged = len(theta) == k and bool((residuals < tol * theta.abs()).all())
        return Found(
            theta.cpu().numpy(), self.products, vectors.T.cpu().numpy(), residuals.cpu().numpy(), converged
        )

    def power(self, k: int, tol: float, start: Array | Tensor | None = None, budget: int = 400) -> Found:
        """Power iteration with deflation, to a residual of tol; from a start for k = 1, which is where it
        takes one."""
        first = self.vector(start)

        def run(n: int, iterations: int) -> Found:
            if n == 1 and first is not None:
                value, v, residual, _, converged = he.power_iteration_one(
                    self.operator, max_iter=iterations, tol=tol, init=first
                )
                return Found(np.array([value]), None, v[None].cpu().numpy(), np.array([residual]), converged)
            return _eigen(
                he.deflated_power_iteration(self.operator, k=n, max_iter=iterations, tol=tol, seed=0)
            )

        with self.counted():
            return self.dominant(k, budget, run)

    def trace(self, probes: int, seed: int, method: Literal["hutchinson", "hutch++"] = "hutch++") -> Found:
        """Its estimate from `probes` products."""
        with self.counted():
            r = he.trace(self.operator, num_matvecs=probes, method=method, seed=seed)
        return Found(np.array([r.estimate]), self.products, residuals=np.array([r.stderr]))

    def density(self, probes: int, steps: int, seed: int) -> Found:
        """Stochastic Lanczos quadrature, orthogonalised in full (there is no switch), with next to no grid to
        smooth on."""
        with self.counted():
            r = he.spectral_density(
                self.operator, num_runs=probes, lanczos_steps=steps, num_grid_points=2, seed=seed
            )
        return Found(r.raw_eigenvalues.cpu().numpy(), self.products, weights=r.raw_weights.cpu().numpy())

    def product(self) -> Product:
        """A product at these parameters."""
        return self.operator.matvec


class _Mean(nn.Module):
    """A loss as curvlinops wants it."""

    reduction = "mean"

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        return self.loss(outputs, targets)


class Curvlinops(Contestant):
    """curvlinops and SciPy: ARPACK's Lanczos with restarts, Hutchinson, Hutch++, XTrace, quadrature.

    Its check that the operator is deterministic and its pass to count the examples are off.
    """

    def __init__(self, module: nn.Module, loss: Loss, batches: Batches) -> None:
        super().__init__(module, loss, batches)
        contestant = self

        class Counted(curvlinops.HessianLinearOperator):
            def _matmat(self, M: list[Tensor]) -> list[Tensor]:
                contestant.products += M[0].shape[-1]
                return super()._matmat(M)

        self.operator = Counted(
            self.module,
            _Mean(loss),
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
    ) -> Found:
        """ARPACK to a residual of tol times the eigenvalue, with `ncv` vectors (None: max(2 k + 1, 20)).

        `dtype` is ARPACK's own (None: float32, the faster, down to a tol of 1e-5); products are in that of
        the module. `budget` bounds the restarts: a few products more may be spent. It takes `ncv` + 1
        products at least: from a good start, and for k = 1 wherever it stands out, a small `ncv` ends sooner.
        """
        dtype = dtype or (np.float32 if tol >= 1e-5 else np.float64)
        first = self.vector(start)
        v0 = np.random.default_rng(0).standard_normal(self.size) if first is None else first.cpu().numpy()
        width = min(ncv or max(2 * k + 1, 20), self.size)
        restarts = max(1, (budget - width) // max(1, width - k))
        with self.counted():
            wrapped = self.operator.to_scipy(dtype=dtype)
            options = {
                "k": k,
                "which": "LA",
                "tol": tol,
                "v0": v0.astype(dtype),
                "ncv": width,
                "maxiter": restarts,
            }
            try:
                values, vectors = eigsh(wrapped, **options)
                converged = True
            except ArpackNoConvergence as e:
                values, vectors, converged = e.eigenvalues, e.eigenvectors, False
        order = np.argsort(-values)
        return Found(values[order], self.products, vectors.T[order], None, converged)

    def trace(
        self,
        probes: int,
        seed: int,
        method: Literal["hutchinson", "hutch++", "xtrace"] = "xtrace",
        block: int | None = None,
    ) -> Found:
        """Its estimate from `probes` products (a multiple of 3 for Hutch++, of 2 for XTrace), as many at once
        as it has.

        For Hutchinson, `block` at once, averaged: its own way multiplies all probes at once, whatever memory
        that takes.
        """
        with self.counted(seed):
            if method == "hutchinson":
                sizes = (
                    [probes] if block is None else [min(block, probes - i) for i in range(0, probes, block)]
                )
                value = sum(float(curvlinops.hutchinson_trace(self.operator, n)) * n for n in sizes) / probes
            elif method == "hutch++":
                value = float(curvlinops.hutchpp_trace(self.operator, probes - probes % 3))
            else:
                value = float(curvlinops.xtrace(self.operator, probes - probes % 2))
        return Found(np.array([value]), self.products)

    def density(self, probes: int, steps: int, seed: int) -> Found:
        """Its Lanczos kernel, without reorthogonalisation: `lanczos_approximate_spectrum` less the smoothing
        and the bounds."""
        with self.counted(seed):
            runs = [fast_lanczos(self.operator, steps) for _ in range(probes)]
        nodes, weights = (
            np.stack([r.cpu().numpy() for r in rows])
            for rows in zip(*((t, s[0] ** 2) for t, s in runs), strict=True)
        )
        return Found(nodes, self.products, weights=weights)

    def product(self) -> Product:
        """A product at these parameters, [D] or [D, n]."""
        return lambda v: self.operator @ v


def _eigen(r: he.EigenResult, products: int | None = None) -> Found:
    """What hessian-eigenthings returns, as ours."""
    values, vectors, residuals = (t.cpu().numpy() for t in (r.eigenvalues, r.eigenvectors, r.residuals))
    return Found(values, products, vectors, residuals, bool(r.converged.all()))


def _error(samples: Array) -> Array | None:
    """The standard error of their mean."""
    return np.array([samples.std(ddof=1) / len(samples) ** 0.5]) if len(samples) > 1 else None
