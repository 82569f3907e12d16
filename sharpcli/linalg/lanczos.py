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

CROWD = 0.85  # Ritz values above this share of the largest may overtake it before the next measurement
PIECE = 8192  # numbers whose products are added in their own precision
KEEP = 8  # vectors kept for the next measurement, at most, unless more are wanted


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs, largest (algebraic) first, and what is known of their error.

    `values` [k] float64; `vectors` [p, D], p > k: the k wanted first, then those that crowd below the largest, as a
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
            size = length = norm(x)
            while True:  # a second pass only where the first took much away: Parlett, section 6.9
                x = x - (dots(self.V, x[None]).T.to(x) @ self.V)[0]
                length, before_pass = norm(x), length
                if length > 0.7 * before_pass or length <= 10 * torch.finfo(x.dtype).eps * size:
                    break
            if length > 10 * torch.finfo(x.dtype).eps * size:
                self._V[self.size] = x / length
                self.size += 1
        if self.size == before:
            return False
        fresh = slice(before, self.size)
        self._AV[fresh] = self.matvec(self._V[fresh])
        block = dots(self.V, self._AV[fresh])
        self.T[: self.size, fresh] = block
        self.T[fresh, : self.size] = block.T
        return True

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values [m], largest first, and their coefficients as rows [m, m]."""
        T = self.T[: self.size, : self.size]
        theta, Y = torch.linalg.eigh((T + T.T) / 2)
        return theta.flip(0), Y.T.flip(0)


def largest(matvec: Matvec, start: Tensor, k: int, tol: float, max_products: int, slack: float = 1.0) -> Ritz:
    """The k algebraically largest eigenpairs, each eigenvalue to an estimated error of tol |theta_1|.

    `matvec` takes and returns rows [m, D]; `start` [m, D], m >= k, spans the first block. A pair has converged when its
    error is at most tol |theta_1| and its residual at most `slack` times that. From a random start leave `slack` at 1:
    a mixture of eigenvectors that the basis cannot tell apart yet has a small |R|^2 / gap and a large residual. From a
    start that holds what crowds at the top, 10 is safe. Stops after `max_products` with `converged` False. The smallest
    eigenvalues are the largest of -A.
    """
    basis = Basis(matvec, max_products, start)
    basis.grow(start)
    while True:
        theta, Y = basis.ritz()
        wanted, allowed = min(k, basis.size), tol * float(theta[0].abs())
        # No gap exceeds the spread of the Ritz values: a pair that fails this has not converged, and cheaply so.
        surely = min(slack * allowed, max(allowed, (allowed * float(theta[0] - theta[-1])) ** 0.5))
        j, r = 0, _residuals(basis, theta, Y, 0, 1)
        while norm(r[0]) <= surely and j + 1 < wanted:
            j += 1
            r = _residuals(basis, theta, Y, j, j + 1)
        if norm(r[0]) > surely and basis.grow(r):
            continue
        shown = min(basis.size, max(wanted + 1, KEEP))
        R = _residuals(basis, theta, Y, 0, shown)
        residuals, errors = dots(R, R).diagonal()[:wanted].sqrt(), cluster_errors(theta, R, wanted)
        bad = ((errors > allowed) | (residuals > slack * allowed)).nonzero().flatten().tolist()
        if not bad or not basis.grow(R[bad[:1]]):
            break
    # One more than wanted, always: the next one down is where an overtaking eigenvalue comes from, and it tells the gap.
    kept = max(min(wanted + 1, basis.size), min(int((theta[:shown] > CROWD * theta[0].abs()).sum()), KEEP))
    vectors = Y[:kept].to(start) @ basis.V
    return Ritz(theta[:wanted], vectors, residuals, errors, basis.size, wanted == k and not bad)


def _residuals(basis: Basis, theta: Tensor, Y: Tensor, first: int, last: int) -> Tensor:
    """A u - theta u [last - first, D] of the Ritz vectors u in that range."""
    Y = Y[first:last]
    return Y.to(basis.V) @ basis.AV - (theta[first:last, None] * Y).to(basis.V) @ basis.V


def dots(A: Tensor, B: Tensor) -> Tensor:
    """A B^T [m, p] in float64 for rows of any length D.

    Added up in float64 over pieces of the rows: over 10^6 numbers a float32 matrix product was seen to lose 3e-5.
    """
    out = torch.zeros(len(A), len(B), dtype=torch.float64, device=A.device)
    for a, b in zip(A.split(PIECE, 1), B.split(PIECE, 1), strict=True):
        out += a @ b.T
    return out


def norm(x: Tensor) -> float:
    """|x|, added up in float64."""
    return float(x.double().norm())


def cluster_errors(theta: Tensor, R: Tensor, wanted: int) -> Tensor:
    """For each wanted Ritz value the smallest of its residual and |R_c|^2 / gap_c over clusters of the c largest.

    R_c [c, D] are the residuals of the cluster, and the gap reaches to the next Ritz value *outside* it plus half of
    that one's own residual, its likely distance from an eigenvalue (after Parlett, theorem 11.7.1, for blocks): with
    several eigenvalues close together, the gap inside the cluster would promise too much. An estimate, no bound.
    """
    G = dots(R, R)
    r = G.diagonal().sqrt()
    errors = r[:wanted].clone()
    for c in range(1, len(R)):
        size = torch.linalg.eigvalsh(G[:c, :c])[-1].clamp_min(0)
        gap = theta[: min(c, wanted)] - (theta[c] + r[c] / 2)
        bound = torch.where(gap > 0, size / gap, torch.inf)
        errors[: len(bound)] = torch.minimum(errors[: len(bound)], bound)
    return errors
