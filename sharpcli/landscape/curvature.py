"""What the measures at a point share: a linearization, a Krylov run from each random start, the eigenpairs
computed so far."""

from __future__ import annotations

from functools import cached_property
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from sharpcli.landscape.surface import Linearization, LossSurface
from sharpcli.linalg.lanczos import KEPT_VECTORS, Krylov, Matvec, Ritz, Tell, extremes
from sharpcli.linalg.quadrature import Quadrature, extend, rule, stack
from sharpcli.rng import generator

Operator = Literal["hessian", "gauss_newton"]
# From warm vectors a residual may exceed the error by so much; with 10 an overtaking eigenvalue was missed by 6e-3.
WARM_SLACK = 3.0


class Curvature:
    """The curvature of a surface at w [D].

    Sharpness, density and log-determinant asked for together cost the products of the most demanding of them:
    the first random start is the same for all, and an earlier Krylov run is carried on. Starts are keyed by
    (seed, step, number). A later request reuses an earlier run, so the result may be more accurate than
    requested, but never less. A Krylov basis holds at most `basis_bytes`. `tell(products, error)` is called
    during long solves.
    """

    def __init__(
        self,
        surface: LossSurface,
        w: Tensor,
        seed: int,
        step: int,
        basis_bytes: int,
        tell: Tell | None = None,
    ) -> None:
        self.surface, self.w, self.tell, self.key, self.basis_bytes = (
            surface,
            w,
            tell,
            (seed, step),
            basis_bytes,
        )
        self._krylov: dict[tuple[Operator, int], Krylov] = {}
        self._rules: dict[tuple[Operator, int], tuple[int, tuple[Tensor, Tensor]]] = {}
        self._ritz: dict[tuple[Operator, bool], tuple[Ritz, float]] = {}

    @cached_property
    def linearization(self) -> Linearization:
        """The gradient and the products at w."""
        return self.surface.linearize(self.w)

    @property
    def room(self) -> int:
        """Basis vectors that fit `basis_bytes`; at least twice as many as a restart keeps."""
        return max(2 * KEPT_VECTORS, self.basis_bytes // self.w.nbytes)

    def matvec(self, operator: Operator) -> Matvec:
        """Products with the Hessian or the Gauss-Newton matrix."""
        return self.linearization.hvp if operator == "hessian" else self.linearization.ggn

    def start(self, number: int) -> Tensor:
        """The random direction [1, D] of this number, the same for every measure."""
        seed, step = self.key
        rng = generator(seed, f"krylov {number}", step)
        return torch.randn(1, len(self.w), generator=rng, dtype=torch.float64).to(self.w)

    def krylov(self, operator: Operator, number: int = 0) -> Krylov:
        """The Krylov run from random start `number`, as far as earlier measures took it; that of start 0 is
        kept."""
        run = self._krylov.get((operator, number))
        if run is None:
            run = Krylov(self.matvec(operator), self.start(number), self.room)
            if number == 0:
                self._krylov[operator, number] = run
        return run

    def eigenpairs(
        self,
        operator: Operator,
        k: int,
        tol: float,
        max_products: int,
        warm: Tensor | None = None,
        least: bool = False,
    ) -> Ritz:
        """The k largest eigenpairs, and for `least` the smallest, to tol |lambda_1|; from `warm` vectors
        where given."""
        for known, its_tol in (
            self._ritz[key] for key in ((operator, least), (operator, True)) if key in self._ritz
        ):
            if len(known.values) >= k and known.converged and its_tol <= tol:
                return _first(known, k)
        numbers = count(1)

        def fresh() -> Tensor:
            return self.start(next(numbers))[0]

        if warm is None or not len(warm):
            earlier = self._krylov.get((operator, 0))
            spent = 0 if earlier is None else earlier.products
            krylov, slack = self.krylov(operator), 1.0
        else:
            krylov = Krylov(self.matvec(operator), warm[:max_products], self.room)
            spent, slack = 0, WARM_SLACK
        left = max(0, max_products - (krylov.products - spent))
        ritz = extremes(krylov, k, tol, left, least=least, slack=slack, fresh=fresh, tell=self.tell)
        ritz = Ritz(**(vars(ritz) | {"products": krylov.products - spent}))
        self._ritz[operator, least] = ritz, tol
        return ritz

    def dense(self, operator: Operator) -> Tensor:
        """The whole matrix [D, D], by D products."""
        eye = torch.eye(len(self.w), dtype=self.w.dtype, device=self.w.device)
        A = torch.cat([self.matvec(operator)(rows) for rows in eye.split(32)])
        return (A + A.T) / 2

    def quadrature(self, operator: Operator, probes: int, steps: int) -> tuple[Quadrature, int]:
        """Lanczos quadrature with `probes` random starts and `steps` steps each, and the products it
        spent."""
        rules, spent = [], 0
        for number in range(probes):
            known = self._rules.get((operator, number))
            if known is not None and known[0] >= steps:
                rules.append(known[1])
                continue
            shared = self._krylov.get((operator, number))
            products = 0 if shared is None else shared.products
            krylov = self.krylov(operator, number)
            if krylov.restarted or krylov.capacity < min(steps, len(self.w)):
                krylov, products = Krylov(self.matvec(operator), self.start(number), steps), 0
            extend(krylov, steps)
            rules.append(rule(krylov))
            self._rules[operator, number] = steps, rules[-1]
            spent += krylov.products - products
            if self.tell is not None:
                self.tell(spent, float("nan"))
        return stack(rules), spent


def _first(ritz: Ritz, k: int) -> Ritz:
    """The first k of pairs that are known already, at no cost."""
    less = {
        "values": ritz.values[:k],
        "residuals": ritz.residuals[:k],
        "errors": ritz.errors[:k],
        "products": 0,
    }
    return Ritz(**(vars(ritz) | less))
