"""The manifold of minimizers: where every output meets its target. Its normal space, and Newton's way onto it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.surface import LossSurface

LARGEST = 20_000_000  # entries of the Jacobian that are computed
STEPS = 50


@dataclass(frozen=True)
class Interpolators:
    """Of a loss of outputs f(w) [m], m = nC: its zeros of the residual r = (d loss / d f) / (d^2 loss / d f^2), which is
    f - y for half squared loss."""

    surface: LossSurface

    def outputs(self, w: Tensor) -> Tensor:
        """f(w) [m]."""
        return self.surface.predict(w, self.surface.joined[0]).flatten()

    def jacobian(self, w: Tensor) -> Tensor:
        """J [m, D]. Refuses more than 2e7 entries."""
        size = self.outputs(w).numel() * len(w)
        if size > LARGEST:
            raise Refusal(f"a Jacobian of {size:,} entries, and at most {LARGEST:,}: take fewer examples or a smaller model")
        return torch.func.jacrev(self.outputs)(w).detach()

    def residual(self, w: Tensor) -> Tensor:
        """r(w) [m]."""
        x, y = self.surface.joined
        f = self.surface.predict(w, x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.surface.loss(f, y), f, create_graph=True)
        return (slope / torch.autograd.grad(slope.sum(), f)[0]).detach().flatten()

    def project(self, w: Tensor, tol: float) -> tuple[Tensor, float]:
        """Newton's steps w <- w - J^+ r, each halved until it lowers |r|, to max |r| <= `tol` or as far as they lead; and
        that max |r|."""
        r = self.residual(w)
        for _ in range(STEPS):
            if float(r.abs().max()) <= tol:
                break
            step, size = torch.linalg.lstsq(self.jacobian(w), r[:, None], driver="gelsd").solution[:, 0], 1.0
            while size > 1e-4 and not float((new := self.residual(w - size * step)).norm()) < float(r.norm()):
                size /= 2
            if size <= 1e-4:
                break
            w, r = w - size * step, new
        return w, float(r.abs().max())

    def trace(self, w: Tensor) -> Tensor:
        """(1/n) |J|_F^2 (half squared loss), which is Tr H on the manifold; differentiable in w."""
        return trace(torch.func.jacrev(self.outputs)(w), self.surface.examples)

    def slope(self, w: Tensor, of: Callable[[Tensor, int], Tensor], cut: float) -> tuple[Tensor, float]:
        """The tangent part [D] of the gradient at w of `of(J, n)`, a function of the Jacobian [m, D] and the number of
        examples; and the ratio of J's smallest singular value to its largest."""
        at = w.detach().requires_grad_()
        J = torch.func.jacrev(self.outputs)(at)
        (pull,) = torch.autograd.grad(of(J, self.surface.examples), at)
        return tangent(J.detach(), pull.detach(), cut)


def tangent(J: Tensor, v: Tensor, cut: float) -> tuple[Tensor, float]:
    """v without its part in the span of J's right singular vectors above `cut` times the largest; and the ratio of the
    smallest singular value to the largest."""
    _, S, Vh = torch.linalg.svd(J, full_matrices=False)
    normal = Vh[cut * S[0] < S]
    return v - normal.T @ (normal @ v), float(S[-1] / S[0])


def trace(J: Tensor, n: int) -> Tensor:
    """Tr H = (1/n) |J|_F^2 at an interpolator of half squared loss."""
    return J.square().sum() / n


def lambda_1(J: Tensor, n: int) -> Tensor:
    """lambda_1 = (1/n) lambda_1(J J^T) at an interpolator of half squared loss."""
    return torch.linalg.eigvalsh(J @ J.T)[-1] / n
