"""Extreme eigenpairs of a symmetric operator: block Lanczos with full re-orthogonalisation, warm and thick
restarts.

One Krylov decomposition serves both ends of the spectrum and its quadrature. From one start vector this is
Lanczos; from a block of previous eigenvectors it spends products only where they are still needed. Parlett,
The Symmetric Eigenvalue Problem (1998), chapters 11 to 13; the decomposition and its restart are those of
Stewart 2001, "A Krylov-Schur algorithm".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

Matvec = Callable[[Tensor], Tensor]
Tell = Callable[[int, float], object]

CROWD = 0.85  # Ritz values above this share of the largest may overtake it before the next measurement
PIECE = 8192  # numbers whose products are added in their own precision
KEPT_VECTORS = 8  # for the next measurement, at most, unless more are wanted
ROUNDING = 16  # units in the last place of |A| below which no residual is believed


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs, largest (algebraic) first, and what is known of their error.

    `values` [k] float64; `vectors` [p, D], p > k: the k wanted first, then those that crowd below the
    largest, as a start for a nearby operator; `residuals` [k] = |A v - theta v|: an eigenvalue lies within;
    `errors` [k] <= `residuals`: the estimate |R|^2 / gap (see `cluster_errors`); `products` spent by this
    call; `converged`. `least`, `least_residual`, `least_error`: the same for the smallest eigenvalue, where
    it was asked for; its vector is then the last of `vectors`.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    errors: Tensor
    products: int
    converged: bool
    least: float | None = None
    least_residual: float | None = None
    least_error: float | None = None

    def columns(self, name: str) -> dict[str, float]:
        """`<name>_1` ..., then their residuals and errors, then those of `<name>_min` where it was asked
        for."""
        out = {f"{name}_{i + 1}": float(x) for i, x in enumerate(self.values)}
        for what, values in (("residual", self.residuals), ("error", self.errors)):
            out |= {f"{name}_{i + 1}_{what}": float(x) for i, x in enumerate(values)}
        if self.least is None or self.least_residual is None or self.least_error is None:
            return out
        last = {f"{name}_min": self.least, f"{name}_min_residual": self.least_residual}
        return out | last | {f"{name}_min_error": self.least_error}


class Krylov:
    """A V^T = V^T T + G^T C^T: orthonormal rows V [m, D], and orthonormal rows G [p, D] for what A takes out
    of their span.

    A Ritz pair (theta, y) of T, with vector y V, has the residual (y C) G, whose norm is |y C|: no work of
    length D. Growing by a direction z G takes one product and makes that part of the residual exact. T and C
    are float64 and on the CPU: they are a few hundred numbers, which decide what comes next.
    """

    def __init__(self, matvec: Matvec, start: Tensor, capacity: int) -> None:
        self.matvec, self.products = matvec, 0
        self.capacity, self.size, self.width = min(capacity, start.shape[-1]), 0, 0
        self._V = start.new_empty(min(self.capacity, 2 * KEPT_VECTORS), start.shape[-1])
        self._G = start.new_empty(0, start.shape[-1])
        # rows for what is held now: the capacity of a small network is tens of thousands, and T is its square
        self.T = torch.zeros(len(self._V), len(self._V), dtype=torch.float64)
        self.C = torch.zeros(len(self._V), 0, dtype=torch.float64)
        self.restarted = False
        self.add(start)

    @property
    def V(self) -> Tensor:
        """The basis [m, D]."""
        return self._V[: self.size]

    def add(self, X: Tensor) -> bool:
        """Adds what is new in the rows of X, at one product each, to a basis that A does not leave (an empty
        one, at first); False when there is nothing new or no room."""
        assert not self.width, "what A takes out of the basis comes first"
        before = self.size
        for x in X[: self.capacity - before]:
            if (unit := orthonormal(x, self.V)) is not None:
                self._push(unit)
        self._multiply(before)
        return self.size > before

    def grow(self, Z: Tensor) -> bool:
        """Adds the directions Z G, rows Z [q, p], at one product each; False when there is nothing left or no
        room."""
        before, room = self.size, self.capacity - self.size
        if not room or not self.width:
            return False
        Q, R = torch.linalg.qr(Z.T)
        Q = Q[:, R.diagonal().abs() > 1e-8 * R.abs().max()][:, :room]
        for x in Q.T.to(self._G) @ self._G:
            self._push(x / norm(x))
        block = self.C[:before] @ Q
        self.T[:before, before : self.size], self.T[before : self.size, :before] = block, block.T
        rest = torch.linalg.svd(Q)[0][:, Q.shape[1] :]
        self._G, self.C, self.width = rest.T.to(self._G) @ self._G, self.C @ rest, rest.shape[1]
        self._multiply(before)
        return True

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Ritz values [m], largest first, and their coefficients as rows [m, m]."""
        T = self.T[: self.size, : self.size]
        theta, Y = torch.linalg.eigh((T + T.T) / 2)
        return theta.flip(0), Y.T.flip(0)

    def residuals(self, Y: Tensor) -> Tensor:
        """The residuals [q, p] of coefficient rows Y [q, m], in the coordinates of G."""
        return Y @ self.C[: self.size]

    def restart(self, Y: Tensor, theta: Tensor) -> None:
        """Shrinks the basis to the Ritz vectors of rows Y; nothing is lost of them, nor of their
        residuals."""
        C = self.residuals(Y)
        self._V[: len(Y)] = Y.to(self._V) @ self.V
        self.size = len(Y)
        self.T.zero_()
        self.C.zero_()
        self.T[: self.size, : self.size] = torch.diag(theta)
        self.C[: self.size] = C
        self.restarted = True

    def _push(self, x: Tensor) -> None:
        if self.size == len(self._V):
            more = min(self.capacity, 2 * len(self._V)) - len(self._V)
            self._V = torch.cat([self._V, self._V.new_empty(more, self._V.shape[1])])
            self.T, self.C = pad(self.T, (0, more, 0, more)), pad(self.C, (0, 0, 0, more))
        self._V[self.size] = x
        self.size += 1

    def _multiply(self, before: int) -> None:
        """The images of the basis vectors from `before` on: their part in V goes to T (which has that in
        earlier vectors already, by symmetry), what is left to G and C."""
        if self.size == before:
            return
        images = self.matvec(self._V[before : self.size])
        self.products += self.size - before
        for j, x in enumerate(images, before):
            size = length = norm(x)
            smallest = 10 * torch.finfo(x.dtype).eps * size
            inside, outside = self.T.new_zeros(self.size), self.T.new_zeros(self.width)
            while True:  # a second pass only where the first took much away: Parlett, section 6.9
                a, b = dots(self.V, x[None])[:, 0], dots(self._G, x[None])[:, 0]
                x = torch.addmv(x, self.V.T, a.to(x), alpha=-1)
                if self.width:
                    x = torch.addmv(x, self._G.T, b.to(x), alpha=-1)
                inside, outside = inside + a, outside + b
                length, before_pass = norm(x), length
                if length > 0.7 * before_pass or length <= smallest:
                    break
            self.T[before : self.size, j] = inside[before:]
            self.C[j] = outside
            if length > smallest:
                self._G = torch.cat([self._G, (x / length)[None]])
                self.C = torch.cat([self.C, self.C.new_zeros(len(self.C), 1)], 1)
                self.C[j, -1] = length
                self.width += 1


def extremes(
    krylov: Krylov,
    k: int,
    tol: float,
    max_products: int,
    *,
    least: bool = False,
    slack: float = 1.0,
    fresh: Callable[[], Tensor] | None = None,
    tell: Tell | None = None,
) -> Ritz:
    """The k algebraically largest eigenpairs, and the smallest for `least`, to an estimated error of tol
    |theta_1|.

    A pair has converged when its error is at most tol |theta_1| and its residual at most `slack` times that:
    a mixture of eigenvectors that the basis cannot tell apart yet has a small |R|^2 / gap and a large
    residual. Use slack=1 from a random start (slack=3 accepted an eigenvalue 1 % off); from warm vectors that
    span the near-top eigenvalues 3 suffices. The basis is cut back to its best Ritz vectors when it is full.
    Stops with `converged` False when this call would exceed `max_products`. `fresh` gives a random row where
    the space is exhausted and pairs are missing. `tell(products, error)` is called at each step.
    """
    already, previous = krylov.products, torch.empty(0, dtype=torch.float64)
    while True:
        now = _assess(krylov, k, tol, slack, least)
        spent = krylov.products - already
        if tell is not None:
            tell(spent, now.worst)
        done = _is_done(now, krylov, k, previous, tol, fresh is not None)
        previous = now.theta
        if done or spent >= max_products:
            break
        if krylov.size == krylov.capacity < krylov.V.shape[1]:
            kept = _survivors(now.theta, max(now.wanted + 1, krylov.size // 2), least)
            krylov.restart(now.Y[kept], now.theta[kept])
        elif krylov.width:
            krylov.grow(now.next_direction(krylov.width))
        elif fresh is None or not krylov.add(fresh()[None]):
            break
    return _ritz(now, krylov, k, krylov.products - already)


@dataclass(frozen=True)
class _Smallest:
    """The smallest Ritz value, its residual and its estimated error."""

    value: float
    residual: float
    error: float


@dataclass(frozen=True)
class _Assessment:
    """What is known of the Ritz pairs of a basis: all values `theta` [m], largest first, with coefficients
    `Y` [m, m] and residuals `R` [m, p] in the coordinates of G; the `errors` and `residuals` of the
    `wanted` largest; `allowed`, the error that is asked for, and `floor`, below which no residual is
    believed; the rows that have not converged; the `worst` relative error; and the `smallest` pair, where
    it is asked for."""

    theta: Tensor
    Y: Tensor
    R: Tensor
    wanted: int
    errors: Tensor
    residuals: Tensor
    allowed: float
    floor: float
    unconverged: list[int]
    worst: float
    smallest: _Smallest | None

    def next_direction(self, width: int) -> Tensor:
        """The residual [1, p] of the first pair that has not converged; any direction where all have."""
        if self.unconverged:
            return self.R[self.unconverged[:1]]
        return torch.eye(width, dtype=self.R.dtype)[:1]


def _assess(krylov: Krylov, k: int, tol: float, slack: float, least: bool) -> _Assessment:
    theta, Y = krylov.ritz()
    m, scale = krylov.size, float(theta.abs().max())
    wanted, size = min(k, m), float(theta[0].abs()) or scale
    allowed, floor = tol * size, ROUNDING * torch.finfo(krylov.V.dtype).eps * scale
    R = krylov.residuals(Y)
    top = min(m, max(wanted + 1, KEPT_VECTORS))
    errors, residuals = cluster_errors(theta[:top], R[:top], wanted, floor), _norms(R[:wanted], floor)
    unconverged = ((errors > allowed) | (residuals > slack * allowed)).nonzero().flatten().tolist()
    worst, smallest = float(errors.max()), None
    if least:
        bottom = min(m, KEPT_VECTORS)
        error = float(cluster_errors(-theta.flip(0)[:bottom], R.flip(0)[:bottom], 1, floor)[0])
        smallest = _Smallest(float(theta[-1]), float(_norms(R[-1:], floor)[0]), error)
        worst = max(worst, error)
        if error > allowed or smallest.residual > slack * allowed:
            unconverged.append(m - 1)
    relative = worst / size if size else 0.0
    return _Assessment(
        theta, Y, R, wanted, errors, residuals, allowed, floor, unconverged, relative, smallest
    )


def _is_done(now: _Assessment, krylov: Krylov, k: int, previous: Tensor, tol: float, can_add: bool) -> bool:
    """Whether all wanted pairs have converged. A space that the start cannot leave may hide copies of an
    eigenvalue: in it one more random vector must have changed nothing."""
    m, D = krylov.V.shape
    if now.unconverged:
        return False
    leaves = float(krylov.C[:m].norm()) if krylov.width else 0.0
    if can_add and m < D and leaves <= 100 * now.floor:
        return len(previous) >= k and torch.allclose(previous[:k], now.theta[:k], rtol=tol, atol=now.allowed)
    return now.wanted == k or m == D


def _ritz(now: _Assessment, krylov: Krylov, k: int, products: int) -> Ritz:
    """The wanted pairs, with the vectors that the next measurement starts from."""
    m, wanted = krylov.size, now.wanted
    # One more than wanted, always: the next one down is where an overtaking eigenvalue comes from, and it
    # tells the gap.
    top = min(m, max(wanted + 1, KEPT_VECTORS))
    crowd = int((now.theta[:top] > CROWD * now.theta[0].abs()).sum())
    kept = [*range(max(min(wanted + 1, m), min(crowd, KEPT_VECTORS)))]
    if now.smallest is not None and m - 1 not in kept:
        kept.append(m - 1)
    return Ritz(
        values=now.theta[:wanted],
        vectors=now.Y[kept].to(krylov.V) @ krylov.V,
        residuals=now.residuals,
        errors=now.errors,
        products=products,
        converged=wanted == k and not now.unconverged,
        least=None if now.smallest is None else now.smallest.value,
        least_residual=None if now.smallest is None else now.smallest.residual,
        least_error=None if now.smallest is None else now.smallest.error,
    )


def largest(matvec: Matvec, start: Tensor, k: int, tol: float, max_products: int, slack: float = 1.0) -> Ritz:
    """The k algebraically largest eigenpairs of an operator by its products alone, from the rows of `start`.

    The smallest eigenvalues are the largest of -A. See `extremes`.
    """
    krylov = Krylov(matvec, start[:max_products], max_products)
    ritz = extremes(krylov, k, tol, max(0, max_products - krylov.products), slack=slack)
    return replace(ritz, products=krylov.products)


def _survivors(theta: Tensor, count: int, least: bool) -> list[int]:
    """The Ritz pairs that survive a restart: the largest, and a quarter of the room for the smallest where
    wanted."""
    m = len(theta)
    low = max(1, count // 4) if least else 0
    return [*range(min(count - low, m - low)), *range(m - low, m)]


def _norms(R: Tensor, floor: float) -> Tensor:
    return (R.square().sum(1) + floor**2).sqrt()


def orthonormal(x: Tensor, V: Tensor) -> Tensor | None:
    """x without its part in the rows of V, normalized; None where nothing is left."""
    size = length = norm(x)
    eps = torch.finfo(x.dtype).eps
    while True:
        if len(V):
            x = torch.addmv(x, V.T, dots(V, x[None])[:, 0].to(x), alpha=-1)
        length, before = norm(x), length
        if length > 0.7 * before or length <= 10 * eps * size:
            break
    return x / length if length > 10 * eps * size else None


def dots(A: Tensor, B: Tensor) -> Tensor:
    """A B^T [m, p] in float64, on the CPU, for rows of any length D.

    Added up in float64 over pieces of the rows: over 10^6 numbers a float32 matrix product was seen to lose
    3e-5.
    """
    m, p, D = len(A), len(B), A.shape[1]
    if not m or not p:
        return torch.zeros(m, p, dtype=torch.float64)
    whole = D - D % PIECE
    parts = (X[:, :whole].unflatten(1, (-1, PIECE)).transpose(0, 1) for X in (A, B))
    a, b = parts
    out = (A[:, whole:] @ B[:, whole:].T).double()
    if whole:
        out = out + torch.bmm(a, b.transpose(1, 2)).double().sum(0)
    return out.to("cpu")


def norm(x: Tensor) -> float:
    """|x|, added up in float64."""
    return float(x.double().norm())


def cluster_errors(theta: Tensor, R: Tensor, wanted: int, floor: float = 0.0) -> Tensor:
    """For each wanted Ritz value the smallest of its residual and |R_c|^2 / gap_c over clusters of the c
    largest.

    R_c [c, p] are the residuals of the cluster, in any orthonormal coordinates, and the gap reaches to the
    next Ritz value *outside* it plus half of that one's own residual, its likely distance from an eigenvalue
    (after Parlett, theorem 11.7.1, for blocks): with several eigenvalues close together, the gap inside the
    cluster would promise too much. An estimate, no bound. `floor` is what rounding hides of a residual.
    """
    G = R @ R.T
    r = _norms(R, floor)
    errors = r[:wanted].clone()
    for c in range(1, len(R)):
        size = torch.linalg.eigvalsh(G[:c, :c])[-1].clamp_min(0)
        gap = theta[: min(c, wanted)] - (theta[c] + r[c] / 2)
        bound = torch.where(gap > 0, (size + floor**2) / gap, torch.inf)
        errors[: len(bound)] = torch.minimum(errors[: len(bound)], bound)
    return errors
