"""The manifold of interpolators, the weights at which every output meets its target: its Jacobian, its
tangent space, and Newton's method onto it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.hessian_products import finite, vjp
from sharpcli.landscape.surface import LossSurface

MAX_JACOBIAN_ENTRIES = 20_000_000  # 160 MB in float64
MAX_NEWTON_STEPS = 50
MIN_NEWTON_FRACTION = 1e-4  # of a Newton step, at which halving it ends: |r| does not decrease along it
# A block B_i is singular when its smallest eigenvalue is at most this share of the largest entry of all
# blocks, and the identity when its entries differ from it by at most this much.
SINGULAR_RATIO = 1e-9
# The share of the largest entry by which rounding may change a block when the signs of other examples change.
COUPLING_RATIO = 1e-6


@dataclass(frozen=True)
class Interpolators:
    """The weights w at which a loss of the outputs f(w) [n, C] of n examples is least in every output.

    B_i [C, C] is the Hessian of example i's loss in its outputs, the identity for the half squared loss. The
    residual is r_i = B_i^-1 (d loss_i / d f_i), equal to f_i - y_i for the half squared loss, and the
    interpolators are its zeros. J [nC, D] is the Jacobian of the outputs with the rows of each example
    multiplied by B_i^(1/2); at an interpolator Tr H = (1/n) |J|_F^2.

    Raises Refusal for a loss with a singular B_i, such as cross-entropy, whose infimum lies at infinite
    outputs; and for one that couples the outputs of different examples, or batches that are normalized one by
    one.
    """

    surface: LossSurface

    @cached_property
    def _examples(self) -> tuple[Shaped[Tensor, "n ..."], Shaped[Tensor, "n ..."]]:
        return self.surface.as_one

    def outputs(self, w: Float[Tensor, " D"]) -> Float[Tensor, " nC"]:
        """f(w), flattened."""
        return self.surface.predict(w, self._examples[0]).flatten()

    def jacobian(self, w: Float[Tensor, " D"]) -> Float[Tensor, "nC D"]:
        """J at w. Raises Refusal for more than `MAX_JACOBIAN_ENTRIES`."""
        entries = self.outputs(w).numel() * len(w)
        if entries > MAX_JACOBIAN_ENTRIES:
            raise Refusal(
                f"a Jacobian of {entries:,} entries, and at most {MAX_JACOBIAN_ENTRIES:,}: take fewer "
                f"examples or a smaller model"
            )
        jacobian = finite(torch.func.jacrev(self.outputs)(w).detach(), "Jacobian of the outputs")
        return self._weighted(w, jacobian)

    def residual(self, w: Float[Tensor, " D"]) -> Float[Tensor, " nC"]:
        """The residuals r_i at w, flattened."""
        slope, block = self._slope_and_block(w)
        if _is_diagonal(block):
            return (slope / block.diagonal(dim1=-2, dim2=-1)).flatten()
        return torch.linalg.solve(block, slope[..., None])[..., 0].flatten()

    def project(self, w: Float[Tensor, " D"], tol: float) -> tuple[Float[Tensor, " D"], float]:
        """Newton's method w <- w - J^+ r, J here the Jacobian of the unweighted outputs, each step halved
        until |r| decreases. Ends at max |r| <= tol, after `MAX_NEWTON_STEPS`, or when no fraction of a step
        decreases |r|; returns w and max |r|."""
        r = self.residual(w)
        for _ in range(MAX_NEWTON_STEPS):
            if float(r.abs().max()) <= tol:
                break
            jacobian = finite(torch.func.jacrev(self.outputs)(w).detach(), "Jacobian of the outputs")
            step = torch.linalg.lstsq(jacobian, r[:, None], driver="gelsd").solution[:, 0]
            damped = self._damped_step(w, r, step)
            if damped is None:
                break
            w, r = damped
        return w, float(r.abs().max())

    def _damped_step(self, w: Tensor, r: Tensor, step: Tensor) -> tuple[Tensor, Tensor] | None:
        """The first of w - step, w - step / 2, w - step / 4, ... with a residual norm below |r|, and its
        residual; None if the fraction reaches `MIN_NEWTON_FRACTION` without one."""
        fraction, old_norm = 1.0, float(r.norm())
        while fraction > MIN_NEWTON_FRACTION:
            new_w = w - fraction * step
            new_r = self.residual(new_w)
            if float(new_r.norm()) < old_norm:
                return new_w, new_r
            fraction /= 2
        return None

    def trace(self, w: Float[Tensor, " D"]) -> Float[Tensor, ""]:
        """(1/n) |J|_F^2, which is Tr H at an interpolator; differentiable in w with the B_i held constant."""
        return trace(self._weighted(w, torch.func.jacrev(self.outputs)(w)), self.surface.examples)

    def slope(
        self,
        w: Float[Tensor, " D"],
        of: Callable[[Float[Tensor, "nC D"], int], Float[Tensor, ""]],
        cut: float,
    ) -> tuple[Float[Tensor, " D"], float]:
        """The tangent component of the gradient in w of `of(J, n)`, a scalar function of the Jacobian J [nC,
        D] and the number of examples; and the ratio of J's smallest singular value to its largest (see
        `tangent`).

        The B_i are held constant: along the manifold the outputs do not change, and with them the B_i.
        """
        at = w.detach().requires_grad_()
        J = self._weighted(w, finite(torch.func.jacrev(self.outputs)(at), "Jacobian of the outputs"))
        value = of(J, self.surface.examples)
        # of outputs that are linear in w, J is a constant
        gradient = torch.autograd.grad(value, at)[0] if value.requires_grad else torch.zeros_like(at)
        return tangent(J.detach(), gradient.detach(), cut)

    def _weighted(self, w: Tensor, jacobian: Tensor) -> Tensor:
        """The Jacobian [nC, D] of the outputs with each example's rows multiplied by B_i^(1/2), here the
        Cholesky factor L^T, B_i = L L^T; unchanged if all B_i are the identity."""
        n = self.surface.examples
        B = self._slope_and_block(w)[1] * n
        if bool((B - torch.eye(B.shape[-1]).to(B)).abs().max() <= SINGULAR_RATIO):
            return jacobian
        return (torch.linalg.cholesky(B).mT @ jacobian.view(n, B.shape[-1], -1)).view_as(jacobian)

    def _slope_and_block(self, w: Tensor) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n C C"]]:
        """The gradient of the mean loss in the outputs, and its Hessian's diagonal block B_i / n for each
        example.

        Column c of all blocks comes from one product with the Hessian, along output c of every example. A
        product with a random vector is then that of the blocks, unless the loss couples examples.
        """
        x, y = self._examples
        outputs = self.surface.predict(w, x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.surface.loss(outputs, y), outputs, create_graph=True)
        if not slope.requires_grad:
            raise Refusal("a loss that is linear in the outputs has no interpolator; use loss=half_squared")
        n = len(y)
        flat = slope.view(n, -1)
        rng = torch.Generator().manual_seed(0)

        def column(c: int) -> Tensor:
            unit = torch.zeros_like(flat)
            unit[:, c] = 1
            return vjp(flat, outputs, unit, retain_graph=True).view(n, -1)

        block = torch.stack([column(c) for c in range(flat.shape[1])], 2)
        finite(block, "Hessian of the loss in the outputs")
        largest_entry = float(block.abs().max())
        probe = torch.randn(n, flat.shape[1], generator=rng, dtype=torch.float64).to(flat)
        product = vjp(flat, outputs, probe, retain_graph=True).view(n, -1)
        change = float((product - torch.einsum("ncd,nd->nc", block, probe)).abs().max())
        if n > 1 and not change <= COUPLING_RATIO * largest_entry:
            raise Refusal(
                "this loss couples its examples, so that no output has a target of its own; use "
                "loss=half_squared"
            )
        if _is_diagonal(block):
            eigenvalues = block.diagonal(dim1=1, dim2=2)
        else:
            eigenvalues = torch.linalg.eigvalsh((block + block.mT) / 2)
        singular = max(SINGULAR_RATIO, 1e3 * torch.finfo(block.dtype).eps)
        if not largest_entry > 0 or not float(eigenvalues.min()) > singular * largest_entry:
            raise Refusal(
                "the Hessian of this loss in an example's outputs is singular: it has no minimizer at "
                "finite outputs "
                "(cross-entropy), or is flat here (Huber's, far from the target); use loss=half_squared"
            )
        return flat.detach(), block.detach()


def _is_diagonal(block: Tensor) -> bool:
    return bool((block == torch.diag_embed(block.diagonal(dim1=-2, dim2=-1))).all())


def tangent(
    J: Float[Tensor, "nC D"], v: Float[Tensor, " D"], cut: float
) -> tuple[Float[Tensor, " D"], float]:
    """The tangent component of v: v minus its projection onto the right singular vectors of J with singular
    values above `cut` times the largest. And the ratio of the smallest singular value to the largest."""
    _, S, Vh = torch.linalg.svd(J, full_matrices=False)
    normal = Vh[cut * S[0] < S]
    return v - normal.T @ (normal @ v), float(S[-1] / S[0])


def trace(J: Float[Tensor, "nC D"], n: int) -> Float[Tensor, ""]:
    """Tr H = (1/n) |J|_F^2 at an interpolator, n the number of examples."""
    return J.square().sum() / n


def lambda_1(J: Float[Tensor, "nC D"], n: int) -> Float[Tensor, ""]:
    """The largest eigenvalue of H = (1/n) J^T J at an interpolator, computed as that of (1/n) J J^T."""
    return torch.linalg.eigvalsh(J @ J.T)[-1] / n
