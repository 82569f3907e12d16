"""The manifold of minimizers: where every output meets its target. Its normal space, and Newton's way onto
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface

LARGEST_JACOBIAN = 20_000_000  # entries of the Jacobian that are computed
NEWTON_STEPS = 50
SMALLEST_STEP = 1e-4  # of a Newton step that is halved until it lowers the residual
SINGULAR = (
    1e-9  # the ratio of a block's smallest eigenvalue to its largest at which it is taken to be singular
)


@dataclass(frozen=True)
class Interpolators:
    """The w at which a loss of outputs f(w) [n, C] is least in every output.

    B_i [C, C] is the Hessian of example i's loss in its outputs, the identity for half squared loss. The
    residual is r_i = B_i^(-1) (d loss_i / d f_i), which is f_i - y_i for half squared loss; the interpolators
    are its zeros. With J [nC, D] the Jacobian of the outputs, each example's rows multiplied by B_i^(1/2), Tr
    H = (1/n) |J|_F^2 there.

    Refuses a loss with a singular B_i: cross-entropy, whose least value lies at infinite outputs; and one
    that couples examples.
    """

    surface: LossSurface

    @cached_property
    def _examples(self) -> tuple[Tensor, Tensor]:
        return self.surface.joined

    def outputs(self, w: Tensor) -> Tensor:
        """f(w) [nC]."""
        return self.surface.predict(w, self._examples[0]).flatten()

    def jacobian(self, w: Tensor) -> Tensor:
        """J [nC, D]. Refuses more than 2e7 entries."""
        size = self.outputs(w).numel() * len(w)
        if size > LARGEST_JACOBIAN:
            raise Refusal(
                f"a Jacobian of {size:,} entries, and at most {LARGEST_JACOBIAN:,}: take fewer examples or "
                f"a smaller model"
            )
        return self._weighted(w, torch.func.jacrev(self.outputs)(w).detach())

    def residual(self, w: Tensor) -> Tensor:
        """r(w) [nC]."""
        slope, block = self._slope_and_block(w)
        if _is_diagonal(block):
            return (slope / block.diagonal(dim1=-2, dim2=-1)).flatten()
        return torch.linalg.solve(block, slope[..., None])[..., 0].flatten()

    def project(self, w: Tensor, tol: float) -> tuple[Tensor, float]:
        """Newton's steps w <- w - J^+ r, each halved until it lowers |r|, to max |r| <= `tol` or as far as
        they lead; and that max |r|."""
        r = self.residual(w)
        for _ in range(NEWTON_STEPS):
            if float(r.abs().max()) <= tol:
                break
            jacobian = torch.func.jacrev(self.outputs)(w).detach()
            step, size = torch.linalg.lstsq(jacobian, r[:, None], driver="gelsd").solution[:, 0], 1.0
            while size > SMALLEST_STEP and not float((new := self.residual(w - size * step)).norm()) < float(
                r.norm()
            ):
                size /= 2
            if size <= SMALLEST_STEP:
                break
            w, r = w - size * step, new
        return w, float(r.abs().max())

    def trace(self, w: Tensor) -> Tensor:
        """(1/n) |J|_F^2, which is Tr H on the manifold; differentiable in w, with the B_i held."""
        return trace(self._weighted(w, torch.func.jacrev(self.outputs)(w)), self.surface.examples)

    def slope(self, w: Tensor, of: Callable[[Tensor, int], Tensor], cut: float) -> tuple[Tensor, float]:
        """The tangent part [D] of the gradient at w of `of(J, n)`, a function of the Jacobian [nC, D] and the
        number of examples; and the ratio of J's smallest singular value to its largest. The B_i are held:
        along the manifold the outputs, and with them the B_i, do not move."""
        at = w.detach().requires_grad_()
        J = self._weighted(w, torch.func.jacrev(self.outputs)(at))
        (gradient,) = torch.autograd.grad(of(J, self.surface.examples), at)
        return tangent(J.detach(), gradient.detach(), cut)

    def _weighted(self, w: Tensor, jacobian: Tensor) -> Tensor:
        """Each example's rows of the outputs' Jacobian multiplied by B_i^(1/2); themselves for half squared
        loss."""
        n = self.surface.examples
        B = self._slope_and_block(w)[1] * n
        if bool((B - torch.eye(B.shape[-1]).to(B)).abs().max() <= SINGULAR):
            return jacobian
        return (torch.linalg.cholesky(B).mT @ jacobian.view(n, B.shape[-1], -1)).view_as(jacobian)

    def _slope_and_block(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient [n, C] of the mean loss in the outputs, and its Hessian's blocks [n, C, C], one for
        each example.

        Column c of all blocks is one product, with a random sign for each example: what couples examples
        changes with the signs.
        """
        x, y = self._examples
        outputs = self.surface.predict(w, x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.surface.loss(outputs, y), outputs, create_graph=True)
        if not slope.requires_grad:
            raise Refusal("a loss that is linear in the outputs has no interpolator; use loss=half_squared")
        flat, n = slope.view(len(y), -1), len(y)
        signs = torch.ones(n, 1).to(flat)
        signs[torch.rand(n, generator=torch.Generator().manual_seed(0)) < 0.5] = -1

        def column(c: int, scale: Tensor) -> Tensor:
            unit = torch.zeros_like(flat)
            unit[:, c] = scale[:, 0]
            return torch.autograd.grad(flat, outputs, unit, retain_graph=True)[0].view(n, -1) * scale

        block = torch.stack([column(c, torch.ones_like(signs)) for c in range(flat.shape[1])], 2)
        size = float(block.abs().max())
        if n > 1 and not float((column(0, signs) - block[:, :, 0]).abs().max()) <= 1e-6 * size:
            raise Refusal(
                "this loss couples its examples, so that no output has a target of its own; use "
                "loss=half_squared"
            )
        low = (
            torch.linalg.eigvalsh((block + block.mT) / 2)[:, 0]
            if not _is_diagonal(block)
            else block.diagonal(dim1=1, dim2=2)
        )
        if not size > 0 or not float(low.min()) > SINGULAR * size:
            raise Refusal(
                "this loss has no minimizer at finite outputs, or not only one (its Hessian in an "
                "example's outputs is "
                "singular, as cross-entropy's is): there is no manifold of interpolators; use "
                "loss=half_squared"
            )
        return flat.detach(), block.detach()


def _is_diagonal(block: Tensor) -> bool:
    return bool((block == torch.diag_embed(block.diagonal(dim1=-2, dim2=-1))).all())


def tangent(J: Tensor, v: Tensor, cut: float) -> tuple[Tensor, float]:
    """v without its part in the span of J's right singular vectors above `cut` times the largest; and the
    ratio of the smallest singular value to the largest."""
    _, S, Vh = torch.linalg.svd(J, full_matrices=False)
    normal = Vh[cut * S[0] < S]
    return v - normal.T @ (normal @ v), float(S[-1] / S[0])


def trace(J: Tensor, n: int) -> Tensor:
    """Tr H = (1/n) |J|_F^2 at an interpolator."""
    return J.square().sum() / n


def lambda_1(J: Tensor, n: int) -> Tensor:
    """lambda_1 = (1/n) lambda_1(J J^T) at an interpolator."""
    return torch.linalg.eigvalsh(J @ J.T)[-1] / n
