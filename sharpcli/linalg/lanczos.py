"""Largest eigenpairs of a symmetric operator: block Lanczos with full re-orthogonalisation and a warm start.

The Krylov basis grows by the residuals of wanted Ritz pairs that have not converged. From one start vector this is
Lanczos (every Ritz residual is a multiple of the next Lanczos vector); from a block of previous eigenvectors it spends
products only where they are still needed. Parlett, The Symmetric Eigenvalue Problem (1998), chapters 11 to 13.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]

CROWD = 0.9  # Ritz values above this share of the largest may overtake it before the next measurement
KEEP = 8  # vectors kept for the next measurement, at most, unless more are wanted


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs, largest (algebraic) first, and what is known of their error.

    `values` [k] float64; `vectors` [p, D], p >= k: the k wanted first, then those that crowd below the largest, as a
    start for a nearby operator; `residuals` [k] = |A v - theta v|: an eigenvalue lies within; `errors` [k] <=
    `residuals`: the estimate |R|^2 / gap (see `cluster_errors`); `products` spent; `converged`.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    errors: Tensor
    products: int
    converged: bool


class Basis:
    """Orthonormal rows V [m, D], their images A V, and T = V A V^T [m, m] in float64."""

    def __init__(self, matvec: Matvec, capacity: int, like: Tensor) -> None:
        self.matvec, self.size, self.capacity = matvec, 0, min(capacity, like.shape[-1])
        self._V = like.new_empty(min(self.capacity, 2 * KEEP), like.shape[-1])
        self._AV = torch.empty_like(self._V)
        self.T = torch.zeros(self.capacity, self.capacity, dtype=torch.float64, device=like.device)

    @property
    def V(self) -> Tensor:
        """The basis [m, D]."""
        return self._V[: self.size]

    @property
    def AV(self) -> Tensor:
        """Its images [m, D]."""
        return self._AV[: self.size]

    def grow(self, X: Tensor) -> bool:
        """Adds the part of the rows of X that is new, at one product each; False when there is none or no room."""
        before = self.size
        for x in X[: self.capacity - before]:
            if self.size == len(self._V):
                self._V = torch.cat([self._V, torch.empty_like(self._V)])
                self._AV = torch.cat([self._AV, torch.empty_like(self._AV)])
            size = x.norm()
            for _ in range(2):  # twice is enough: Parlett, section 6.9
                x = x - (self.V @ x) @ self.V
            left = x.norm()
            if left > 10 * torch.finfo(x.dtype).eps * size:
                self._V[self.size] = x / left
                self.size += 1
        if self.size == before:
            return False
        fresh = slice(before, self.size)
        self._AV[fresh] = self.matvec(self._V[fresh])
        block = (self.V @ self._AV[fresh].T).double()
        self.T[: self.size, fresh] = block
        self.T[fresh, : self.size] = block.T
        return True

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values [m], largest first, and their coefficients as rows [m, m]."""
        T = self.T[: self.size, : self.size]
        theta, Y = torch.linalg.eigh((T + T.T) / 2)
        return theta.flip(0), Y.T.flip(0)


def largest(matvec: Matvec, start: Tensor, k: int, tol: float, max_products: int) -> Ritz:
    """The k algebraically largest eigenpairs, each eigenvalue to an estimated error of tol |theta_1|.

    `matvec` takes and returns rows [m, D]; `start` [m, D] spans the first block. Stops after `max_products` with
    `converged` False. The smallest eigenvalues are the largest of -A.
    """
    basis = Basis(matvec, max_products, start)
    basis.grow(start)
    while True:
        theta, Y = basis.ritz()
        wanted = min(k, basis.size)
        shown = min(basis.size, max(wanted, KEEP))
        R = _residuals(basis, theta, Y, shown)
        errors = cluster_errors(theta, R, wanted)
        bad = [j for j in range(wanted) if errors[j] > tol * theta[0].abs()]
        if wanted < k:  # fewer vectors than eigenvalues asked for: every residual is worth a product
            bad = list(range(min(shown, k - wanted)))
        if not bad or not basis.grow(R[bad] if wanted < k else R[bad[:1]]):
            break
    kept = max(wanted, min(int((theta[:shown] > CROWD * theta[0].abs()).sum()), KEEP))
    vectors = Y[:kept].to(start) @ basis.V
    return Ritz(theta[:wanted], vectors, R[:wanted].norm(dim=1).double(), errors, basis.size, wanted == k and not bad)


def _residuals(basis: Basis, theta: Tensor, Y: Tensor, count: int) -> Tensor:
    """A u - theta u [count, D] of the largest Ritz vectors u."""
    Y = Y[:count]
    return Y.to(basis.V) @ basis.AV - (theta[:count, None] * Y).to(basis.V) @ basis.V


def cluster_errors(theta: Tensor, R: Tensor, wanted: int) -> Tensor:
    """For each wanted Ritz value the smallest of its residual and |R_c|^2 / gap_c over clusters of the c largest.

    R_c [c, D] are the residuals of the cluster, and the gap reaches to the next Ritz value *outside* it plus that
    one's own residual (Parlett, theorem 11.7.1, for blocks): with several eigenvalues close together, the gap
    inside the cluster would promise too much.
    """
    G = (R @ R.T).double()
    r = G.diagonal().clamp_min(0).sqrt()
    errors = r[:wanted].clone()
    for c in range(1, len(R)):
        size = torch.linalg.eigvalsh(G[:c, :c])[-1].clamp_min(0)
        gap = theta[: min(c, wanted)] - (theta[c] + r[c])
        bound = torch.where(gap > 0, size / gap, torch.inf)
        errors[: len(bound)] = torch.minimum(errors[: len(bound)], bound)
    return errors
