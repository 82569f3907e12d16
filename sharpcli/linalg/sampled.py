"""The matrix of a sample of the examples in place of A, the mean over all of them: a product costs the
sample's share, and says where to look. What a solve states, products with A have shown.

Two uses. How A has changed since an earlier solve: the sample's change is near that of A where the sample
itself is not near A, since the examples' own curvatures hardly change among themselves (a control variate).
And where a solve has not looked: Krylov vectors stay in invariant subspaces, and from vectors of an earlier
solve near them, so that an eigenvalue of another one, or a second copy of a multiple eigenvalue, is missed.
A few steps of Lanczos on the complement of what is known are continued from solve to solve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sharpcli.linalg.krylov import Krylov, Matvec, dots, orthonormal

# A direction is multiplied by A when its value by the sample, times what A's was of the sample's where one
# was multiplied last, is within this share of the last eigenvalue asked for, or above it: the first share
# where the search has begun with this solve, and the sample's own value of that eigenvector is compared; the
# second in a new direction; the third in one that is remembered, or half of the sine by which those have
# turned: of 1,080 solves after jumps, 6 were further off than stated by the third share alone, none so.
MARGIN_FIRST, MARGIN_NEW, MARGIN_REMEMBERED = 0.05, 0.1, 0.02
# What was seen of a direction holds for those no further from it than this cosine; for others no lower
# ratio is believed than LEAST_RATIO.
SAME, LEAST_RATIO = 0.9, 0.85
FORGOTTEN = 0.1  # from search to search a ratio goes back to 1 by this share of its distance
STEPS_COLD, STEPS_WARM = 14, 6  # of Lanczos on the complement: after a random start, and from solve to solve
# The direction of the last solve goes on with so much of a random one: it lies in an invariant subspace too.
FRESH = 0.3
MOST_REFINED = 12  # products with A by which a direction is refined until it counts among the largest, or not
CHEAP = 0.25  # the largest share of the examples by which a change is worth its products
KNOWN = 1e-2  # share of a direction's squared length outside of a basis that knows it


@dataclass
class Sampled:
    """Products with a matrix near A: `now(V)` at the point of this solve, `change(V)` the difference to those
    at the point of the earlier one, None where that is not known. A product costs `share` of one with A;
    `spent` counts what all of them have cost. `random` draws a direction [D] to search from."""

    now: Matvec
    change: Matvec | None
    share: float
    random: Callable[[], Float[Tensor, " D"]]
    spent: float = 0.0

    def product(self, V: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        """`now(V)`, counted."""
        self.spent += self.share * len(V)
        return self.now(V)

    def changed(self, V: Float[Tensor, "m D"]) -> Float[Tensor, "m D"] | None:
        """`change(V)`, counted: two products each; None where it is not known or the sample not `CHEAP`."""
        if self.change is None or self.share > CHEAP:
            return None
        self.spent += 2 * self.share * len(V)
        return self.change(V)


@dataclass(frozen=True)
class Sought:
    """The direction `vector` [D] in which A may have an eigenvalue that a solve has missed, the value of the
    sample's matrix there, and `ratio`, A's value over the sample's in the direction multiplied last:
    where the sample's value is largest it is mostly above A's, whatever the direction."""

    vector: Float[Tensor, " D"]
    value: float
    ratio: float

    def lies_in(self, vectors: Float[Tensor, "p D"]) -> bool:
        """Whether more than half of it, squared, lies in the span of orthonormal rows."""
        return float(dots(self.vector[None], vectors).square().sum()) > 0.5

    def may_exceed(
        self, value: float, remembered: Float[Tensor, "p D"], is_new: bool, turned: float = 0.0
    ) -> bool:
        """Whether A's value in this direction may exceed this one; `is_new` where the search has begun with
        this solve, and the value is the sample's. `turned` is the sine by which the remembered vectors have
        turned."""
        margin = MARGIN_FIRST if is_new else MARGIN_NEW
        if self.lies_in(remembered):
            margin = min(max(turned / 2, MARGIN_REMEMBERED), MARGIN_NEW)
        return self.value * self.ratio * (1 + margin) > value


def search(
    matvec: Matvec, known: Float[Tensor, "p D"], start: Float[Tensor, " D"], ratio: float, steps: int
) -> Sought | None:
    """The largest Ritz pair of P A P after `steps` steps of Lanczos from P `start`, P the projection off the
    orthonormal rows `known`; None where nothing is left of the start vector."""

    def outside(V: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        X = matvec(V)
        return X - dots(X, known).to(X) @ known

    first = orthonormal(start, known)
    if first is None:
        return None
    krylov = Krylov(outside, first[None], steps)
    for _ in range(steps - 1):
        if not krylov.grow(torch.eye(krylov.width, dtype=torch.float64)[:1]):
            break
    theta, Y = krylov.ritz()
    vector = Y[0].to(krylov.V) @ krylov.V
    is_same = abs(float(dots(vector[None], first[None]))) > SAME
    ratio = 1 - (1 - ratio) * (1 - FORGOTTEN)
    return Sought(vector, float(theta[0]), ratio if is_same else max(ratio, LEAST_RATIO))


def admit(
    krylov: Krylov, vector: Float[Tensor, " D"], k: int, allowed: float, limit: int, is_new: bool
) -> float | None:
    """Adds a direction to the basis of a solve, and what its products leave, until its Ritz value is among
    the k largest; where the direction is not `is_new`, but comes from an earlier solve or is remembered,
    until its residual r says that it will not be: it may rise by 2 |r|^2 / theta_1. In at most `limit`
    products, none where the basis has the direction already. Returns v.A v, None where no product was
    left."""
    if krylov.size == krylov.capacity < krylov.dimension:
        theta, Y = krylov.ritz()
        kept = max(k + 1, krylov.size // 2)
        krylov.restart(Y[:kept], theta[:kept])
    first, before = krylov.size, krylov.ritz()[0][:k]
    if _share(krylov, vector) < KNOWN:
        return _value(krylov, vector)
    if limit < 1 or not krylov.insert(vector[None]):
        return None
    for _ in range(min(limit, MOST_REFINED) - 1):
        theta, Y = krylov.ritz()
        new = int(Y[:, first:].square().sum(1).argmax())  # the pair that is most of what has been added
        if new < k or float((theta[: len(before)] - before).max()) > allowed:
            break
        residual = krylov.residuals(Y[new][None])[0]
        rise = 2 * float(residual.square().sum()) / (abs(float(theta[0])) or 1.0)
        if not is_new and float(theta[new]) + rise <= float(theta[k - 1]) - allowed:
            break
        if not krylov.insert((residual.to(krylov.G) @ krylov.G)[None]):
            break
    return _value(krylov, vector)


def _share(krylov: Krylov, vector: Float[Tensor, " D"]) -> float:
    """The share of the squared length of a unit vector that lies outside of the basis."""
    return 1 - float(dots(vector[None], krylov.V).square().sum())


def _value(krylov: Krylov, vector: Float[Tensor, " D"]) -> float:
    """v.A v by the basis, for a unit vector in its span."""
    c, m = dots(vector[None], krylov.V), krylov.size
    return float(c @ krylov.T[:m, :m] @ c.T)
