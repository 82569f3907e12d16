"""Extreme eigenpairs of a symmetric operator A by block Lanczos with full re-orthogonalisation, warm starts
and thick restarts.

`extremes` grows a `krylov.Krylov` decomposition until the eigenpairs asked for have converged. The same
decomposition gives both ends of the spectrum, and from a single start vector the quadrature of
`quadrature.rule`. Started from the eigenvectors of a nearby operator, it is extended only in the directions
of residuals that are too large. Parlett, The Symmetric Eigenvalue Problem (1998), chapters 11 to 13; the
decomposition and its restart are those of Stewart 2001, "A Krylov-Schur algorithm for large eigenproblems".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sharpcli.linalg.accuracy import eigenvalue_rounding
from sharpcli.linalg.krylov import KEPT_VECTORS, Krylov, Matvec, dots, norm
from sharpcli.linalg.nearby import ASYMMETRY_FACTOR, KEPT_SHARE, Remembered, track
from sharpcli.linalg.sampled import FRESH, STEPS_COLD, STEPS_WARM, Sampled, admit, search

Tell = Callable[[int, float], object]  # progress of a solve: (products so far, relative error)
# From a random start a stated error is at least so many residuals. A Ritz vector may be that of a lower
# eigenvalue of a crowd while the start vector happens to have little of the highest, which then shows in the
# residual alone. Over 1,000 spectra, four in five of them crowded at the top (tolerance 1e-3), the value was
# further off than was stated in 5.7 % with one residual, 1.9 % with two, 1.0 % with three and 0.1 % with ten,
# for 15.0, 16.6, 17.6 and 20.0 products; by |R|^2 / gap alone in 29.7 % (benchmarks/crowds.py).
HIDDEN = 3.0
# A sample of the examples is asked how vectors have turned where a residual is more than this share of
# theta_1, though the vectors before were well predicted: a jump, as gradient descent makes at the edge.
SURPRISING = 0.05


@dataclass(frozen=True)
class Ritz:
    """Approximate eigenpairs (theta_i, v_i) of A, algebraically largest first, with bounds and estimates of
    their errors.

    `values` [k] are the theta_i, in float64. `remembered` starts with the k eigenvectors v_i, followed by
    those that should start the next solve (see `nearby.KEPT_SHARE`), at least one if the basis has one.
    `residuals` [k] are |A v_i - theta_i v_i|: an eigenvalue lies within that distance of theta_i. `errors`
    [k] are estimates of |theta_i - lambda_i|: no less than `HIDDEN` residuals from a random start, and at
    most the residuals from vectors of a nearby operator (see `cluster_errors`); both include what the
    rounding of products can do. `products` is the number of products with A spent, those with a sample's
    matrix by their share, `converged` whether all k pairs met the tolerance.

    `least`, `least_residual`, `least_error` and `least_converged` describe the smallest eigenvalue, None
    unless it was asked for; its vector is then the last row of `vectors`.
    """

    values: Float64[Tensor, " k"]
    remembered: Remembered
    residuals: Float64[Tensor, " k"]
    errors: Float64[Tensor, " k"]
    products: int | float
    converged: bool
    least: float | None = None
    least_residual: float | None = None
    least_error: float | None = None
    least_converged: bool | None = None

    @property
    def vectors(self) -> Float[Tensor, "p D"]:
        """The vectors of `remembered`."""
        return self.remembered.vectors

    def columns(self, name: str) -> dict[str, float | bool]:
        """The columns of a metrics row: `<name>_i`, `<name>_i_residual` and `<name>_i_error` for i = 1 ... k,
        and if the smallest eigenvalue was asked for, `<name>_min` with its `_residual`, `_error` and
        `_converged`."""
        out: dict[str, float | bool] = {f"{name}_{i + 1}": float(x) for i, x in enumerate(self.values)}
        for suffix, numbers in (("residual", self.residuals), ("error", self.errors)):
            out |= {f"{name}_{i + 1}_{suffix}": float(x) for i, x in enumerate(numbers)}
        if self.least is None or self.least_residual is None or self.least_error is None:
            return out
        out |= {f"{name}_min": self.least, f"{name}_min_residual": self.least_residual}
        return out | {
            f"{name}_min_error": self.least_error,
            f"{name}_min_converged": bool(self.least_converged),
        }

    def named(self, name: str) -> dict[str, Float[Tensor, " D"]]:
        """The unit eigenvectors by the columns of their eigenvalues, `<name>_i` and `<name>_min`."""
        least = {} if self.least is None else {f"{name}_min": self.vectors[-1]}
        return {f"{name}_{i + 1}": v for i, v in enumerate(self.vectors[: len(self.values)])} | least


def extremes(
    krylov: Krylov,
    k: int,
    tol: float,
    max_products: int,
    *,
    least: bool = False,
    slack: float = 1.0,
    fresh: Callable[[], Float[Tensor, " D"]] | None = None,
    tell: Tell | None = None,
    scale: float = 0.0,
) -> Ritz:
    """Grows `krylov` until its k algebraically largest eigenpairs have converged to `tol`, relative to
    |theta_1|, and with `least` the smallest one too, relative to itself. Where theta_1 is zero up to
    rounding, an error is to be no more than twice the rounding.

    A pair has converged when its estimated error is at most tol |theta_1| and its residual at most `slack`
    times that; the smallest when they are so for tol |theta_m|, or are rounding alone. The residual is asked
    for too because a mixture of eigenvectors that the basis does not separate yet has a small |R|^2 / gap but
    a large residual. `slack=1` stands for a random start, where the error is at least `HIDDEN` residuals;
    from warm vectors that span the eigenvectors near the top, 3 suffices, and a pair that has converged
    states tol |theta_1|, or its residual where that is less.

    A basis at its capacity is cut back to its best Ritz vectors. When the basis is invariant under A but may
    lack eigenpairs, `fresh` supplies a random vector [D]; without `fresh` the solve ends, perhaps with fewer
    than k pairs. `tell(products, error)` is called once per step. The result is `converged=False` if this
    call would need more than `max_products` products, or if what is left of the residuals is rounding and
    larger than asked for. `scale` is the norm of what the products of A are differences of, if that is more
    than |A|: rounding acts on it.
    """
    products_before, none = krylov.products, torch.empty(0, dtype=torch.float64)
    previous_theta, invariant = none, _Invariant(none, 0)
    for _ in range(2 * max_products + 2):  # every second step at least spends a product
        assessment = _assess(krylov, k, tol, slack, least, scale)
        spent = krylov.products - products_before
        if tell is not None:
            tell(spent, assessment.relative_error)
        is_invariant = fresh is not None and _is_invariant(assessment, krylov)
        if is_invariant:
            reference = previous_theta if k == 1 else invariant.theta
            done = not assessment.unfinished and _agree(reference, assessment, k, tol)
            invariant = _Invariant(assessment.theta, krylov.size)
        else:
            done = _is_done(assessment, krylov, k, invariant, tol, slack)
        previous_theta = assessment.theta
        if done or spent >= max_products:
            break
        if krylov.size == krylov.capacity < krylov.dimension:
            kept = _survivors(assessment.theta, max(assessment.wanted + 1, krylov.size // 2), least)
            krylov.restart(assessment.Y[kept], assessment.theta[kept])
        elif (
            krylov.width
        ):  # a residual may be zero in its coordinates and yet be counted, as its rounding error
            width, direction = krylov.width, assessment.next_direction(krylov.width)
            if not krylov.grow(direction) and not krylov.grow(torch.eye(width, dtype=direction.dtype)[:1]):
                break
        elif fresh is None or not krylov.add(fresh()[None]):
            break
    if slack <= 1:  # a random start
        assessment = _with_missed(assessment, krylov)
    return _ritz(assessment, krylov, k, krylov.products - products_before)


@dataclass(frozen=True)
class _Smallest:
    """The smallest Ritz value, its residual's norm, its estimated error, and whether it has converged."""

    value: float
    residual: float
    error: float
    converged: bool


@dataclass(frozen=True)
class _Assessment:
    """The Ritz pairs of a basis and how far they have converged.

    `theta` [m], largest first, has the eigenvectors `Y` [m, m] and the residuals `R` [m, p] in the
    coordinates of G. The `wanted` largest have the estimated `errors` and the `residuals` [wanted] (norms);
    `allowed` is the error asked for, `floor` the rounding error of a residual. `unconverged` says of each
    wanted pair whether it has not converged, `unfinished` lists the indices of the pairs that have not and
    whose residuals are not rounding alone. `relative_error` is the largest estimated error relative to what
    it should be a share of, and `smallest` the smallest pair, None unless it is asked for.
    """

    theta: Float64[Tensor, " m"]
    Y: Float64[Tensor, "m m"]
    R: Float64[Tensor, "m p"]
    wanted: int
    errors: Float64[Tensor, " wanted"]
    residuals: Float64[Tensor, " wanted"]
    allowed: float
    floor: float
    unconverged: Tensor
    unfinished: list[int]
    relative_error: float
    smallest: _Smallest | None

    def next_direction(self, width: int) -> Float64[Tensor, "1 p"]:
        """The residual of the first pair that is unfinished, in the `width` coordinates of G; the first row
        of G if none is."""
        if self.unfinished:
            return self.R[self.unfinished[:1]]
        return torch.eye(width, dtype=self.R.dtype)[:1]


def _assess(krylov: Krylov, k: int, tol: float, slack: float, least: bool, scale: float) -> _Assessment:
    """Computes the Ritz pairs of the basis and compares the k largest, with `least` also the smallest, with
    the tolerance (see `extremes`)."""
    theta, Y = krylov.ritz()
    m, spectral_norm = krylov.size, max(float(theta.abs().max()), scale)
    wanted, top_value = min(k, m), float(theta[0].abs()) or spectral_norm
    allowed, floor = tol * top_value, eigenvalue_rounding(spectral_norm, krylov.V)
    rounding = max(floor, ASYMMETRY_FACTOR * krylov.asymmetry)
    if top_value <= rounding:  # a theta_1 that is zero as far as products can tell
        allowed = 2 * rounding
    R = krylov.residuals(Y)
    top = min(m, max(wanted + 1, KEPT_VECTORS))
    errors, residuals = cluster_errors(theta[:top], R[:top], wanted, rounding), _norms(R[:wanted], rounding)
    errors = _stated(errors, residuals, R[:wanted], rounding, allowed, slack)
    unconverged = (errors > allowed) | (residuals > slack * allowed)
    unfinished = (unconverged & (_norms(R[:wanted], 0.0) > rounding)).nonzero().flatten().tolist()
    relative_error, smallest = float(errors.max()) / top_value if top_value else 0.0, None
    if least:  # the smallest eigenvalue of A is the largest of -A
        bottom, value = min(m, KEPT_VECTORS), float(theta[-1])
        allowed_least = max(tol * abs(value), 2 * rounding)
        estimate = cluster_errors(-theta.flip(0)[:bottom], R.flip(0)[:bottom], 1, rounding)
        residuals_least = _norms(R[-1:], rounding)
        error = float(_stated(estimate, residuals_least, R[-1:], rounding, allowed_least, slack)[0])
        residual = float(residuals_least[0])
        converged = error <= allowed_least and residual <= slack * allowed_least
        smallest = _Smallest(value, residual, error, converged)
        relative_error = max(relative_error, tol * error / allowed_least if allowed_least else 0.0)
        if not converged and float(R[-1].norm()) > rounding:
            unfinished.append(m - 1)
    return _Assessment(
        theta,
        Y,
        R,
        wanted,
        errors,
        residuals,
        allowed,
        floor,
        unconverged,
        unfinished,
        relative_error,
        smallest,
    )


def _stated(
    errors: Float64[Tensor, " k"],
    residuals: Float64[Tensor, " k"],
    R: Float64[Tensor, "k p"],
    rounding: float,
    allowed: float,
    slack: float,
) -> Float64[Tensor, " k"]:
    """The errors that are stated where `cluster_errors` estimates `errors`: from a random start no less than
    `HIDDEN` residuals; from warm vectors no less than what is `allowed`, or the residual."""
    if slack <= 1:
        beyond_rounding = (R.square().sum(1) - rounding**2).clamp_min(0).sqrt()
        return torch.maximum(errors, HIDDEN * beyond_rounding + rounding)
    return torch.minimum(errors.clamp_min(allowed), residuals)


def missed(krylov: Krylov, theta: Float64[Tensor, " m"]) -> float:
    """How far the largest eigenvalue of A may lie above the largest Ritz value theta_1 of a run from a single
    random vector v, which a pair that has not converged may be wrong by. In 1 of 20 cases it is further.

    prod_j (A - theta_j) v has the length b of the product of T's off-diagonal entries and the last residual.
    Its component along the eigenvector x of lambda_1 is prod_j (lambda_1 - theta_j) (x.v), and (x.v)^2 D is
    at least 0.0039 in 19 of 20 cases, so that prod_j (lambda_1 - theta_j) <= b sqrt(D / 0.0039). Returns 0
    where the run began otherwise, is invariant, or was restarted.
    """
    m, D = krylov.size, krylov.dimension
    if m == D or krylov.restarted or not krylov.is_single or krylov.width != 1:
        return 0.0
    steps = torch.cat([krylov.T[:m, :m].diagonal(1), krylov.C[m - 1]]).abs()
    if not float(steps.min()) > 0:
        return 0.0
    log_product = float(steps.log().sum()) + 0.5 * math.log(D / 0.0039)
    low, high = 0.0, math.exp(log_product / m)  # each factor is at least lambda_1 - theta_1
    for _ in range(60):
        middle = (low + high) / 2
        below = float((middle + theta[0] - theta).log().sum()) <= log_product
        low, high = (middle, high) if below else (low, middle)
    return high


@dataclass(frozen=True)
class _Invariant:
    """The Ritz values [m] and the size m of the last basis that was invariant under A; none, and 0, before
    the first."""

    theta: Tensor
    size: int


def _is_invariant(assessment: _Assessment, krylov: Krylov) -> bool:
    """Whether A takes nothing out of the basis, which is not the whole space: no growth by A reaches more of
    it."""
    m, D = krylov.size, krylov.dimension
    coupling = float(krylov.C[:m].norm()) if krylov.width else 0.0
    return m < D and coupling <= 50 * assessment.floor


def _agree(reference: Tensor, assessment: _Assessment, k: int, tol: float) -> bool:
    """Whether the k largest Ritz values are those of `reference`, to `tol`."""
    if len(reference) < k or len(assessment.theta) < k:
        return False
    return torch.allclose(reference[:k], assessment.theta[:k], rtol=tol, atol=assessment.allowed)


def _is_done(
    assessment: _Assessment, krylov: Krylov, k: int, invariant: _Invariant, tol: float, slack: float
) -> bool:
    """Whether all k pairs have converged, for a basis that A leaves.

    An invariant basis may lack copies of a multiple eigenvalue, which its start vector cannot reach. It goes
    on from a random direction, and the solve ends when the largest Ritz pair of that direction has converged
    and has changed none of the k values.
    """
    m, D = krylov.size, krylov.dimension
    if assessment.unfinished:
        return False
    if not invariant.size or m == D:
        return assessment.wanted == k or m == D
    weight = assessment.Y[:, invariant.size :].square().sum(1)
    outside = (weight > 0.5).nonzero().flatten().tolist()
    if not outside:
        return False
    residual = float(assessment.R[outside[0]].norm())
    return residual <= 10 * slack * assessment.allowed and _agree(invariant.theta, assessment, k, tol)


def _with_missed(assessment: _Assessment, krylov: Krylov) -> _Assessment:
    """The assessment with the errors of pairs that have not converged no less than what may be `missed`."""
    errors, smallest = assessment.errors, assessment.smallest
    if bool(assessment.unconverged.any()):
        above = missed(krylov, assessment.theta)
        errors = torch.where(assessment.unconverged, errors.clamp_min(above), errors)
    if smallest is not None and not smallest.converged:
        beneath = missed(krylov, -assessment.theta.flip(0))
        smallest = replace(smallest, error=max(smallest.error, beneath))
    return replace(assessment, errors=errors, smallest=smallest)


def _ritz(assessment: _Assessment, krylov: Krylov, k: int, products: int) -> Ritz:
    """The wanted pairs as a result, with the pairs that should start the next solve (see `KEPT_SHARE`)."""
    m, wanted, theta = krylov.size, assessment.wanted, assessment.theta
    top = min(m, wanted + KEPT_VECTORS - 1)
    near_largest = int((theta[:top] > KEPT_SHARE * theta[0].abs()).sum())
    # One vector beyond those wanted is always kept: the next eigenvalue is the first to overtake, and its
    # distance is the gap of the error estimate.
    kept = [*range(max(min(wanted + 1, m), near_largest))]
    smallest = assessment.smallest
    if smallest is not None and m - 1 not in kept:
        kept.append(m - 1)
    vectors = assessment.Y[kept].to(krylov.V) @ krylov.V
    return Ritz(
        values=theta[:wanted],
        remembered=Remembered.new(
            vectors,
            theta[kept].clone(),
            _norms(assessment.R[kept], 0.0),
            _refined(assessment, krylov, vectors[:wanted]),
        ),
        residuals=assessment.residuals,
        errors=assessment.errors,
        products=products,
        converged=wanted == k and not bool(assessment.unconverged.any()),
        least=None if smallest is None else smallest.value,
        least_residual=None if smallest is None else smallest.residual,
        least_error=None if smallest is None else smallest.error,
        least_converged=None if smallest is None else smallest.converged,
    )


def _refined(assessment: _Assessment, krylov: Krylov, vectors: Float[Tensor, "k D"]) -> Float[Tensor, "k D"]:
    """The Ritz vectors of positive values after a step of the power method, v + r / theta, at unit length."""
    out = vectors.clone()
    for i, theta in enumerate(assessment.theta[: len(out)].tolist()):
        if theta > assessment.floor and krylov.width:
            out[i] += (assessment.R[i] / theta).to(out) @ krylov.G
            out[i] /= norm(out[i])
    return out


def largest(
    matvec: Matvec, start: Float[Tensor, "b D"], k: int, tol: float, max_products: int, slack: float = 1.0
) -> Ritz:
    """The k algebraically largest eigenpairs of the operator `matvec`, from the rows of `start`, by at most
    `max_products` products (see `extremes`). The smallest eigenvalues of A are the largest of -A."""
    krylov = Krylov(matvec, start[:max_products], max_products)
    ritz = extremes(krylov, k, tol, max(0, max_products - krylov.products), slack=slack)
    return replace(ritz, products=krylov.products)


def from_remembered(
    matvec: Matvec,
    before: Remembered,
    k: int,
    tol: float,
    max_products: int,
    room: int,
    slack: float = 3.0,
    fresh: Callable[[], Float[Tensor, " D"]] | None = None,
    tell: Tell | None = None,
    sampled: Sampled | None = None,
) -> Ritz:
    """The k largest eigenpairs of the operator `matvec` from those `before` of a nearby operator, of which
    there are more than k, with a basis of at most `room` vectors: by `nearby.track`, and where that does not
    finish, by block Lanczos from its basis and the other remembered vectors (see `extremes`). Where vectors
    were not well predicted before, or are not now, `sampled` says how the operator has changed on them."""
    rows, turned = before.start(k), None
    if sampled is not None and not bool(before.smooth[:k].all()):
        change = sampled.changed(before.vectors)
        if change is not None:
            before, turned = before.foretold(change)
            is_good = before.smooth.tolist() + [0.0] * k
            rows = torch.stack([rows[i] if is_good[i] else before.vectors[i] for i in range(k)])
    krylov = Krylov(matvec, rows[:max_products], room)
    if sampled is not None and turned is None and _is_surprising(krylov, k):
        change = sampled.changed(before.vectors)
        if change is not None:
            before, turned = before.foretold(change)

    def solve() -> Ritz:
        tracked = track(krylov, before, k, tol, max_products - krylov.products, tell, turned)
        if tracked.converged:
            return Ritz(
                values=tracked.values,
                remembered=tracked.remembered,
                residuals=tracked.residuals,
                errors=tracked.errors,
                products=krylov.products,
                converged=True,
            )
        krylov.insert(before.near(k)[k:][: max(0, max_products - krylov.products)])
        remaining = max(0, max_products - krylov.products)
        ritz = extremes(krylov, k, tol, remaining, slack=slack, fresh=fresh, tell=tell)
        return replace(ritz, products=krylov.products, remembered=ritz.remembered.after(before))

    return searched(krylov, solve, k, tol, max_products, sampled, before, turned or 0.0)


def _is_surprising(krylov: Krylov, k: int) -> bool:
    """Whether a residual of the k largest pairs is `SURPRISING`."""
    theta, Y = krylov.ritz()
    largest_residual = float(krylov.residuals(Y[:k]).norm(dim=1).max())
    return largest_residual > SURPRISING * abs(float(theta[0]))


def searched(
    krylov: Krylov,
    solve: Callable[[], Ritz],
    k: int,
    tol: float,
    max_products: int,
    sampled: Sampled | None,
    before: Remembered | None,
    turned: float = 0.0,
) -> Ritz:
    """What `solve` finds with `krylov`, and again with every direction in which A may have an eigenvalue
    above the last of the k: that `search` finds on the complement of their vectors, from where it has come
    `before`, or from a random direction of the sample. `max_products` bounds the products of `krylov`, and
    the remembered vectors have `turned` by that sine."""
    ritz = solve()
    if sampled is None:
        return ritz
    if not ritz.converged:
        return replace(ritz, products=ritz.products + sampled.spent)
    is_new = before is None or not len(before.sought)
    start, ratio, steps = _search_from(sampled.random(), None if is_new else before)
    in_vain = 0
    for _ in range(k + KEPT_VECTORS):
        sought = search(sampled.product, ritz.vectors[:k], start, ratio, steps)
        if sought is None:
            break
        start, ratio = sought.vector, sought.ratio
        before_it, allowed = ritz.values, tol * abs(float(ritz.values[0]))
        v = ritz.vectors[k - 1 : k]
        last = float(dots(v, sampled.product(v))) if is_new else float(before_it[-1])
        if not sought.may_exceed(last, ritz.vectors[k:], is_new, turned):
            break
        is_unknown = is_new and not sought.lies_in(ritz.vectors[k:])
        value = admit(krylov, sought.vector, k, allowed, max_products - krylov.products, is_unknown)
        if value is None:
            break
        ritz = solve()
        if not ritz.converged:
            break
        if not is_new and sought.value > 0:  # a first search compares the sample's own values
            ratio = min(max(value / sought.value, 0.0), 2.0)
        if float((ritz.values - before_it).max()) > allowed:
            start = sampled.random()
            continue
        in_vain += 1
        if in_vain == (2 if is_unknown else 1):  # a crowd of which no single direction is the highest
            break
    elsewhere = -math.inf if sought is None or sought.lies_in(ritz.vectors) else sought.value * ratio
    remembered = replace(
        ritz.remembered,
        sought=start[None].clone(),
        ratio=torch.tensor([ratio], dtype=torch.float64),
        elsewhere=torch.tensor([elsewhere], dtype=torch.float64),
    )
    return replace(ritz, products=ritz.products + sampled.spent, remembered=remembered)


def _search_from(
    random: Float[Tensor, " D"], before: Remembered | None
) -> tuple[Float[Tensor, " D"], float, int]:
    """Where a search begins, with which ratio of A's values over the sample's, and its number of steps:
    where the search `before` has come, with a part of a `random` direction; with this alone without one."""
    if before is None:
        return random, 1.0, STEPS_COLD
    return before.sought[0] + FRESH * random / norm(random), float(before.ratio), STEPS_WARM


def _survivors(theta: Tensor, count: int, least: bool) -> list[int]:
    """The indices of the `count` Ritz pairs that a restart keeps: the largest; with `least` a quarter of them
    the smallest."""
    m = len(theta)
    low = max(1, count // 4) if least else 0
    return [*range(min(count - low, m - low)), *range(m - low, m)]


def _norms(R: Tensor, floor: float) -> Tensor:
    """sqrt(|R_i|^2 + floor^2) for each row R_i: the norm of a residual, and its rounding error `floor`."""
    return (R.square().sum(1) + floor**2).sqrt()


def cluster_errors(
    theta: Float64[Tensor, " m"], R: Float64[Tensor, "m p"], wanted: int, floor: float = 0.0
) -> Float64[Tensor, " wanted"]:
    """Estimates |theta_i - lambda_i| for the `wanted` largest Ritz values: the smallest of |R_i| and, over
    all c >= i, of |R_1..c|^2 / gap_ic + floor, the bound for a cluster of the c largest.

    R [m, p] are the residuals in any orthonormal coordinates, |R_1..c| is the spectral norm of the first c
    rows, and gap_ic = theta_i - theta_{c+1} - |R_{c+1}| / 2: half of the residual stands for the likely error
    of theta_{c+1}, the first value outside the cluster. Taking the gap outside matters where several
    eigenvalues are close: the gap inside would promise too small an error. After Parlett, theorem 11.7.1, for
    blocks; an estimate, not a bound. `floor` is the rounding error of products, which changes residuals and,
    by as much, eigenvalues: |lambda(A + E) - lambda(A)| <= |E|.
    """
    G = R @ R.T
    r = _norms(R, floor)
    errors = r[:wanted].clone()
    for c in range(1, len(R)):
        squared_norm = torch.linalg.eigvalsh(G[:c, :c])[-1].clamp_min(0)
        gap = theta[: min(c, wanted)] - (theta[c] + r[c] / 2)
        bound = torch.where(gap > 0, (squared_norm + floor**2) / gap + floor, torch.inf)
        errors[: len(bound)] = torch.minimum(errors[: len(bound)], bound)
    return errors
