"""The central flow of gradient descent at the edge of stability: Cohen, Damian, Talwalkar, Kolter & Lee 2024,
"Understanding optimization in deep learning with central flows", arXiv:2410.24206, section 3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Linearization, LossSurface, whole_loss
from sharpcli.linalg.lanczos import largest
from sharpcli.linalg.semidefinite import least, pairs, smat, svec
from sharpcli.optimizers import State

TOL, PRODUCTS = 1e-4, 300  # of the eigenpairs at the edge
MARGIN = 0.02  # of 2/lr: eigenvalues so near below the edge may reach it within a piece


@dataclass(frozen=True)
class CentralFlow:
    """dw/dt = -lr (grad L(w) + 1/2 grad_w <H(w), S>), t in steps: where gradient descent is, averaged over
    its oscillation of covariance S.

    S >= 0 is the one for which H(w) <= 2/lr stays true and S acts where H(w) = 2/lr alone: with U [k, D] the
    eigenvectors at the edge, S = U^T X U, X the solution of a complementarity problem of k rows. Off the edge
    it is gradient flow. One step is time 1, in `pieces` pieces by Euler's method, the constraint being put on
    the end of each.

    The state is (U, k, tr S), U the k eigenvectors at the edge and what crowds below them: the training loss
    of gradient descent averages L(w) + tr S / lr. For full-batch gradient descent on small networks. Refuses
    another rule's gradient, more than `most` eigenvalues at the edge, eigenvalues that are not found, and a
    loss whose curvature no oscillation lowers (a quadratic beyond its edge).
    """

    pieces: int
    most: int

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.most < 1:
            raise Refusal(f"optimizer.pieces={self.pieces} optimizer.most={self.most}: both at least 1")

    def init(self, w: Tensor) -> State:
        nothing = torch.zeros((), dtype=torch.float64)
        return w.new_zeros(0, len(w)), nothing, nothing

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        surface = whole_loss(grad, "central_flow")
        U, k, total, time = state[0].to(w), int(state[1]), 0.0, lr / self.pieces
        for _ in range(self.pieces):
            if not torch.isfinite(w).all():
                break
            linearization = surface.linearize(w)
            values, U = self._near(linearization, U, k, 2 / lr)
            k = len(values)
            velocity, variance = centered(surface, w, linearization.grad, values, U[:k], 2 / lr, time)
            w, total = w + time * velocity, total + variance / self.pieces
        return w, (U, *torch.tensor([k, total], dtype=torch.float64))

    def _near(self, linearization: Linearization, U: Tensor, k: int, edge: float) -> tuple[Tensor, Tensor]:
        """The eigenvalues [k] that may reach the edge within a piece, and their eigenvectors with those that
        crowd below, from as many as there were before and what is known of them, U."""
        k, slack = k + 1, 3.0
        if not len(U):
            U = torch.randn(2, U.shape[1], generator=Generator().manual_seed(0), dtype=torch.float64)
            U = U.to(linearization.grad)
            slack = 1.0
        while True:
            ritz = largest(linearization.hvp, U, min(k, U.shape[1]), TOL, PRODUCTS, slack=slack)
            count = int((ritz.values > (1 - MARGIN) * edge).sum())
            if count > self.most:
                raise Refusal(
                    f"central_flow: {count} eigenvalues are at the edge of stability and "
                    f"optimizer.most={self.most}; "
                    "raise it, or take a smaller lr"
                )
            if not ritz.converged:
                raise Refusal(
                    f"central_flow: the eigenvalues at the edge are not found to {TOL:g} in {PRODUCTS} "
                    f"products; "
                    "take problem.dtype=float64, or a smaller network"
                )
            if count < k or k >= U.shape[1]:
                return ritz.values[:count], ritz.vectors
            k, U = count + 1, ritz.vectors

    def edge(self, lr: float) -> float:
        """2 / lr, that of the gradient descent it describes."""
        return 2 / lr

    def columns(self, state: State, lr: float) -> dict[str, float]:
        """`central_variance` = tr S, the predicted mean |w_t - w|^2 of gradient descent around the flow."""
        return {"central_variance": float(state[2])}


def centered(
    surface: LossSurface, w: Tensor, g: Tensor, values: Tensor, U: Tensor, edge: float, time: float
) -> tuple[Tensor, float]:
    """-(grad L + 1/2 grad <H, S>) [D] and tr S at w, given the eigenpairs near the edge, `values` [k] and U
    [k, D]: after a piece of length `time` the block of H in their span is at most `edge`, and S acts where it
    is equal.

    In the orthonormal basis E_b of symmetric matrices, h_b = <U H U^T, E_b> has the gradient G_b [D], and
    after the piece h + time (-G g - 1/2 G G^T x): the smallest x >= 0 that keeps this below the edge, with
    complementarity.
    """
    k = len(values)
    if not k:
        return -g, 0.0
    single = [surface.curvature_grad(w, u[None]) for u in U]
    G = torch.stack(
        [
            single[i]
            if i == j
            else 2**0.5
            * (surface.curvature_grad(w, (U[i] + U[j])[None] / 2**0.5) - (single[i] + single[j]) / 2)
            for i, j in pairs(k)
        ]
    )
    slack = svec(torch.diag(edge - values.double()))
    push = -(G @ g).double().cpu() - slack / time
    try:
        x = least((G @ G.T).double().cpu() / 2, push)
    except ValueError as problem:
        raise Refusal(
            f"central_flow: no oscillation lowers the curvature {float(values[0]):g} to 2/lr = {edge:g} "
            f"here ({problem}); "
            "take a smaller lr"
        ) from None
    return -g - (x.to(G) @ G) / 2, float(smat(x, k).trace())
