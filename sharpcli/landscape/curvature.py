"""The curvature at one point, shared by all measures taken there: one linearization, one Krylov run from each
random start vector, and the eigenpairs computed so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import count
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.hessian_products import Linearization
from sharpcli.landscape.surface import LEAST_SAMPLED, LossSurface
from sharpcli.linalg.krylov import KEPT_VECTORS, Krylov, Matvec
from sharpcli.linalg.lanczos import Ritz, Tell, extremes, from_remembered, searched
from sharpcli.linalg.nearby import Remembered
from sharpcli.linalg.quadrature import Quadrature, Rule, extend, rule, stack
from sharpcli.linalg.sampled import Sampled
from sharpcli.linalg.split import Split
from sharpcli.linalg.trace import Method, Trace, estimate
from sharpcli.rng import generator

Operator = Literal["hessian", "gauss_newton"]
Warm = Mapping[str, Tensor] | Tensor  # `Remembered.saved`, or start vectors [b, D] alone

# The ratio of residual to error allowed from warm vectors (`slack` of `extremes`): with 10, an eigenvalue
# that had overtaken the largest was missed by 6e-3.
WARM_SLACK = 3.0
SMALL = 512  # parameters: with fewer, products cost little, and block Lanczos is the most exact
LEAST_SAMPLED_FIRST = 512  # examples of the sample by which a first search is made
DENSE_ROWS = 32  # rows of the identity multiplied in one call by `dense`: bounds the memory of the products


class Curvature:
    """The Hessian and the Gauss-Newton matrix of a surface at w [D], and what has been computed of them.

    Sharpness, density and log-determinant requested together cost the products of the most demanding of them:
    their first random start vector is the same, and a later request continues the Krylov run of an earlier
    one. Its result may therefore be more accurate than requested, never less. The start vectors are functions
    of (`seed`, `step`, number). A Krylov basis is limited to `basis_bytes`. `tell(products, error)` is called
    during long solves.

    Of several processes each holds a part of the coordinates of every basis vector (`split`), and its share
    of `basis_bytes`: results do not depend on how many they are.

    `is_fixed` says that the coordinates w are the same ones at every point, so that what a sample of the
    examples says at an earlier w tells how the matrix has changed.
    """

    def __init__(
        self,
        surface: LossSurface,
        w: Float[Tensor, " D"],
        seed: int,
        step: int,
        basis_bytes: int,
        tell: Tell | None = None,
        before: Callable[[], object] | None = None,
        is_fixed: bool = True,
    ) -> None:
        self.surface, self.w, self.tell, self.before = surface, w, tell, before
        self.key, self.basis_bytes, self.is_fixed = (seed, step), basis_bytes, is_fixed
        share = surface.processes
        self.split = None if share.size == 1 else Split(len(w), share.rank, share.size, share.sum)
        self._linearization: Linearization | None = None
        self._krylov: dict[tuple[Operator, int], Krylov] = {}
        self._rules: dict[tuple[Operator, int], tuple[int, Rule]] = {}  # steps taken, and the rule
        self._ritz: dict[tuple[Operator, bool], tuple[Ritz, float]] = {}  # eigenpairs, and their tolerance

    @property
    def linearization(self) -> Linearization:
        """The gradient at w and the products with the curvature there, made once."""
        if self._linearization is None:
            if self.before is not None:
                self.before()
            self._linearization = self.surface.linearize(self.w)
        return self._linearization

    @property
    def known_grad(self) -> Float[Tensor, " D"] | None:
        """The gradient at w, where measures have computed it on the way; else None."""
        return None if self._linearization is None else self._linearization.graph_grad

    @property
    def room(self) -> int:
        """The number of basis vectors that `basis_bytes` allows, and no fewer than twice those a restart
        keeps."""
        return max(2 * KEPT_VECTORS, self.basis_bytes // self.w.nbytes)

    def matvec(self, operator: Operator) -> Matvec:
        """The function V -> A V for the Hessian or the Gauss-Newton matrix A at w."""
        return _products(self.linearization, operator)

    def _own(self, rows: Float[Tensor, "*m D"]) -> Float[Tensor, "*m d"]:
        """The coordinates that this process holds in solves: all of them in a single process."""
        return rows if self.split is None else self.split.own(rows)

    def _matvec(self, operator: Operator) -> Matvec:
        """The function V -> A V for the coordinates that this process holds."""
        return self._of_parts(self.linearization, operator)

    def _of_parts(self, linearization: Linearization, operator: Operator) -> Matvec:
        of_whole, split = _products(linearization, operator), self.split
        if split is None:
            return of_whole

        def of_parts(V: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
            # a kept graph multiplies vectors in turn anyway: then no two of them need be whole at once
            rows = V.split(1) if linearization.kept else (V,)
            return torch.cat([split.own(of_whole(split.whole(row))) for row in rows])

        return of_parts

    def _sampled(self, operator: Operator, earlier: Float[Tensor, "a D"], is_going_on: bool) -> Sampled:
        """The products with the matrix of a sample of the examples, the same one at every point; of all where
        they are few. `earlier` is the point of an earlier solve, none where it is not known."""
        # a first search has no direction to go on from, and no earlier values: a larger sample is nearer
        rng = generator(self.key[0], "sample", 0)
        surface = self.surface.sample(rng, LEAST_SAMPLED if is_going_on else LEAST_SAMPLED_FIRST)
        share = 1.0 if surface is self.surface else surface.examples / self.surface.examples
        made: list[Matvec] = []

        def at(w: Float[Tensor, " D"]) -> Linearization:
            whole = self.linearization
            if surface is self.surface and w is self.w:
                return whole
            return surface.linearize(w, math.ceil(share * whole.graph_bytes))

        def now(V: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
            if not made:
                made.append(self._of_parts(at(self.w), operator))
            return made[0](V)

        def change(V: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
            return now(V) - self._of_parts(at(earlier[0]), operator)(V)

        numbers = count()

        def random() -> Float[Tensor, " d"]:
            # signs take a tenth of the time of normal numbers, which is that of a tenth of a gradient
            rng = generator(self.key[0], f"search {next(numbers)}", self.key[1])
            signs = torch.randint(0, 2, self.w.shape, generator=rng, dtype=torch.int8)
            return self._own(signs.to(self.w) * 2 - 1)

        return Sampled(now, change if len(earlier) and self.is_fixed else None, share, random)

    def _solving(self) -> AbstractContextManager[None]:
        """Within it solvers are given the coordinates that this process holds."""
        return nullcontext() if self.split is None else self.split.active()

    def start(self, number: int) -> Float[Tensor, "1 D"]:
        """The random start vector of this number, of independent N(0, 1), the same for every measure."""
        seed, step = self.key
        rng = generator(seed, f"krylov {number}", step)
        return torch.randn(1, len(self.w), generator=rng, dtype=torch.float64).to(self.w)

    def krylov(self, operator: Operator, number: int = 0) -> Krylov:
        """The Krylov run from the random start vector `number`, with all steps that earlier measures took.
        Only the run of number 0 is stored: the others would each hold a basis."""
        run = self._krylov.get((operator, number))
        if run is None:
            run = Krylov(self._matvec(operator), self._own(self.start(number)), self.room)
            if number == 0:
                self._krylov[operator, number] = run
        return run

    def trace(
        self, operator: Operator, method: Method, rng: torch.Generator, rtol: float, max_products: int
    ) -> Trace:
        """The trace of the matrix, by random probes, until its standard error is `rtol` of it; with no more
        vectors in memory than a Krylov basis may have."""
        matvec, room, like = self._matvec(operator), self.room, self._own(self.w)
        with self._solving():
            return estimate(method, matvec, like, rng, rtol, max_products, self.tell, room)

    def eigenpairs(
        self,
        operator: Operator,
        k: int,
        tol: float,
        max_products: int,
        warm: Warm | None = None,
        least: bool = False,
    ) -> Ritz:
        """The k largest eigenpairs, with `least` the smallest too, to an error of tol |lambda_1| (see
        `extremes`); from those of an earlier call at a nearby point, `warm`, if there are any (see `track`),
        else from the random start vector 0. Its `products` are those of this call."""
        stored = self._stored_eigenpairs(operator, k, tol, least)
        if stored is not None:
            return stored
        numbers = count(1)

        def fresh() -> Float[Tensor, " d"]:
            return self._own(self.start(next(numbers))[0])

        before = _remembered(warm, self.w)
        if isinstance(warm, Tensor):
            check_vectors(warm, self.w)
        rows = before.near(k, least) if before is not None else warm if isinstance(warm, Tensor) else None
        earlier = self.w[None][:0] if before is None else before.at
        sampled = self._sampled(operator, earlier, before is not None and len(before.sought) > 0)
        if self.split is not None:
            before = None if before is None else before.each(self.split.own)
            rows = None if rows is None else self.split.own(rows)
        with self._solving():
            ritz = self._solved(operator, k, tol, max_products, before, rows, least, fresh, sampled)
        if self.split is not None:
            ritz = replace(ritz, remembered=ritz.remembered.each(self.split.whole))
        ritz = replace(ritz, remembered=replace(ritz.remembered, at=self.w[None].clone()))
        self._ritz[operator, least] = ritz, tol
        return ritz

    def _solved(
        self,
        operator: Operator,
        k: int,
        tol: float,
        max_products: int,
        before: Remembered | None,
        rows: Float[Tensor, "p d"] | None,
        least: bool,
        fresh: Callable[[], Float[Tensor, " d"]],
        sampled: Sampled,
    ) -> Ritz:
        """The eigenpairs of a solve from the pairs `before`, the start vectors `rows`, or at random; and
        those that such a solve has missed, by `sampled`: copies of a multiple eigenvalue, and from earlier
        vectors what they do not lead to."""
        if before is not None and not least and len(before.values) > k and len(self.w) >= SMALL:
            return from_remembered(
                self._matvec(operator),
                before,
                k,
                tol,
                max_products,
                self.room,
                WARM_SLACK,
                fresh,
                self.tell,
                sampled,
            )
        if rows is None or not len(rows):
            earlier = self._krylov.get((operator, 0))
            products_before = 0 if earlier is None else earlier.products
            krylov, slack = self.krylov(operator), 1.0
        else:
            products_before = 0
            krylov, slack = Krylov(self._matvec(operator), rows[:max_products], self.room), WARM_SLACK
        is_warm, most = slack > 1, max_products + products_before

        def solve() -> Ritz:
            remaining = max(0, most - krylov.products)
            ritz = extremes(krylov, k, tol, remaining, least=least, slack=slack, fresh=fresh, tell=self.tell)
            ritz = replace(ritz, products=krylov.products - products_before)
            return ritz if before is None else replace(ritz, remembered=ritz.remembered.after(before))

        if k == 1 and not is_warm:  # a random start vector leads to lambda_1, and one copy is all
            return solve()
        ritz = searched(krylov, solve, k, tol, most, sampled, before)
        if not krylov.is_single:  # the quadrature needs the run from one vector alone
            self._krylov.pop((operator, 0), None)
        return ritz

    def _stored_eigenpairs(self, operator: Operator, k: int, tol: float, least: bool) -> Ritz | None:
        """The first k of the eigenpairs of an earlier call that included them to `tol`, at no products; None
        if no call did."""
        for key in ((operator, least), (operator, True)):
            if key not in self._ritz:
                continue
            ritz, its_tol = self._ritz[key]
            if len(ritz.values) >= k and ritz.converged and its_tol <= tol:
                return replace(
                    ritz,
                    values=ritz.values[:k],
                    residuals=ritz.residuals[:k],
                    errors=ritz.errors[:k],
                    products=0,
                )
        return None

    def dense(self, operator: Operator) -> Float[Tensor, "D D"]:
        """The whole matrix, symmetrized against rounding, by D products."""
        eye = torch.eye(len(self.w), dtype=self.w.dtype, device=self.w.device)
        A = torch.cat([self.matvec(operator)(rows) for rows in eye.split(DENSE_ROWS)])
        return (A + A.T) / 2

    def quadrature(self, operator: Operator, probes: int, steps: int) -> tuple[Quadrature, int]:
        """Lanczos quadrature of at least `steps` steps from each of the first `probes` random start vectors,
        and the number of products that this call spent."""
        with self._solving():
            return self._rules_of(operator, probes, steps)

    def _rules_of(self, operator: Operator, probes: int, steps: int) -> tuple[Quadrature, int]:
        rules, spent = [], 0
        for number in range(probes):
            stored = self._rules.get((operator, number))
            if stored is not None and stored[0] >= steps:
                rules.append(stored[1])
                continue
            earlier = self._krylov.get((operator, number))
            products_before = 0 if earlier is None else earlier.products
            krylov = self.krylov(operator, number)
            if krylov.restarted or krylov.capacity < min(steps, len(self.w)):
                start = self._own(self.start(number))
                krylov, products_before = Krylov(self._matvec(operator), start, steps), 0
            extend(krylov, steps)
            rules.append(rule(krylov))
            self._rules[operator, number] = steps, rules[-1]
            spent += krylov.products - products_before
            if self.tell is not None:
                self.tell(spent, float("nan"))
        return stack(rules), spent


def _products(linearization: Linearization, operator: Operator) -> Matvec:
    return linearization.hvp if operator == "hessian" else linearization.ggn


def _remembered(warm: Warm | None, w: Tensor) -> Remembered | None:
    """The pairs of an earlier call, for products with vectors like w; None where there are none. Refuses
    tensors that are no such pairs, as of a changed checkpoint."""
    if warm is None or isinstance(warm, Tensor):
        return None
    try:
        before = Remembered.of(warm)
    except ValueError as problem:
        raise changed_checkpoint(str(problem)) from None
    check_vectors(before.vectors, w)
    # track's model sum_j theta_j u_j u_j^T has the eigenvalues theta_j for orthonormal u_j alone
    if float((before.vectors @ before.vectors.T - torch.eye(len(before.values)).to(w)).abs().max()) > 1e-2:
        raise changed_checkpoint("vectors that are not orthonormal")
    if not all(bool(t.isfinite().all()) for t in (before.values, before.residuals, before.ages)):
        raise changed_checkpoint("numbers that are not finite")
    before = before.each(lambda rows: rows.to(w))
    for rows in (before.refined, before.predicted, before.sought):
        check_vectors(rows, w)
    if before.at.shape[1:] != w.shape or not bool(before.at.isfinite().all()):
        raise changed_checkpoint("a point that is not finite or of another size")
    return before if len(before.values) else None


def check_vectors(vectors: Any, w: Tensor) -> None:
    """Refuses start vectors from a checkpoint that are no [p, D] of finite real numbers, none of them 0."""
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or vectors.shape[1] != len(w):
        raise changed_checkpoint(f"vectors of shape {list(getattr(vectors, 'shape', []))}, not [p, {len(w)}]")
    if not vectors.is_floating_point():
        raise changed_checkpoint(f"vectors of {vectors.dtype}")
    lengths = vectors.norm(dim=1)
    if not bool((lengths.isfinite() & (lengths > 0)).all()):
        raise changed_checkpoint("vectors that are 0 or not finite")


def changed_checkpoint(holds: str) -> Refusal:
    """The refusal of what no earlier measurement has left in a checkpoint: another program has."""
    return Refusal(
        f"the checkpoint that this measurement starts from holds {holds}, which no measurement leaves; "
        f"remove that file of the run's checkpoints/, and the same command uses the one before it"
    )
