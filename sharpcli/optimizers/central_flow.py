"""The central flow of gradient descent at the edge of stability, the path of its weights averaged over their
oscillation: Cohen, Damian, Talwalkar, Kolter & Lee 2024, "Understanding optimization in deep learning with
central flows", arXiv:2410.24206, section 3."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.hessian_products import Linearization
from sharpcli.landscape.surface import Grad, LossSurface, whole_loss
from sharpcli.landscape.third_derivatives import check_third_derivatives
from sharpcli.linalg.lanczos import largest
from sharpcli.linalg.semidefinite import least, pairs, smat, svec
from sharpcli.optimizers import State

EIGENPAIR_TOL = 1e-4  # relative error of the eigenvalues at the edge
MAX_PRODUCTS = 300  # Hessian products for one set of eigenpairs
MARGIN = 0.02  # share of 2/lr: an eigenvalue so little below the edge may reach it within a piece


@dataclass(frozen=True)
class CentralFlow:
    """dw/dt = -lr (grad L(w) + 1/2 grad_w <H(w), S>), t in steps: the weights of gradient descent, averaged
    over an oscillation around them of covariance S [D, D].

    S >= 0 is the covariance by which H(w) <= 2/lr stays true and which is 0 in directions in which H(w) is
    below 2/lr. With U [k, D] the eigenvectors at the edge, S = U^T X U, where X [k, k] solves a
    complementarity problem. Below the edge S = 0, and the central flow is gradient flow. One step is a time
    of 1, in `pieces` pieces of Euler's method; the constraint on H is imposed at the end of each piece.

    The state is (U, k, tr S): U begins with the k eigenvectors at the edge and goes on with those of the
    eigenvalues next below. The training loss of gradient descent is on average L(w) + tr S / lr. It is meant
    for full-batch gradient descent on small networks. Refuses the gradient of another rule, more than `most`
    eigenvalues at the edge, eigenvalues that do not converge, and a loss whose curvature no oscillation
    lowers (a quadratic beyond its edge).
    """

    full_batch: ClassVar[bool] = True
    exact_gradient: ClassVar[bool] = True
    pieces: int
    most: int

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.most < 1:
            raise Refusal(f"optimizer.pieces={self.pieces} optimizer.most={self.most}: both at least 1")

    def init(self, w: Tensor) -> State:
        zero = torch.zeros((), dtype=torch.float64)
        return w.new_zeros(0, len(w)), zero, zero

    def flow_step(self, lr: float) -> float:
        """lr: gradient descent's."""
        return lr

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        surface = whole_loss(grad, "central_flow")
        if not len(state[0]):  # before the first step
            check_third_derivatives(surface, w)
        U, k, time = state[0].to(w), int(state[1]), lr / self.pieces
        mean_variance = 0.0  # of S over the pieces: tr S of this step
        for _ in range(self.pieces):
            if not torch.isfinite(w).all():
                break
            linearization = surface.linearize(w)
            values, U = self._near_edge(linearization, U, k, 2 / lr)
            k = len(values)
            velocity, variance = centered(surface, w, linearization.grad, values, U[:k], 2 / lr, time)
            w, mean_variance = w + time * velocity, mean_variance + variance / self.pieces
        return w, (U, *torch.tensor([k, mean_variance], dtype=torch.float64))

    def _near_edge(
        self, linearization: Linearization, U: Tensor, k: int, edge: float
    ) -> tuple[Tensor, Tensor]:
        """The eigenvalues that may reach the edge within a piece, and their eigenvectors, followed by those
        of the eigenvalues next below. The search starts from the number `k` of such eigenvalues and the
        eigenvectors `U` of the previous piece."""
        k, slack = k + 1, 3.0  # one eigenvalue more, to see that it is below the edge
        if not len(U):
            U = torch.randn(2, U.shape[1], generator=Generator().manual_seed(0), dtype=torch.float64)
            U = U.to(linearization.grad)
            slack = 1.0
        while True:
            ritz = largest(linearization.hvp, U, min(k, U.shape[1]), EIGENPAIR_TOL, MAX_PRODUCTS, slack=slack)
            count = int((ritz.values > (1 - MARGIN) * edge).sum())
            if count > self.most:
                raise Refusal(
                    f"central_flow: {count} eigenvalues are at the edge of stability and "
                    f"optimizer.most={self.most}; raise it, or take a smaller lr"
                )
            if not ritz.converged:
                raise Refusal(
                    f"central_flow: the eigenvalues at the edge are not found to {EIGENPAIR_TOL:g} in "
                    f"{MAX_PRODUCTS} products; take problem.dtype=float64, or a smaller network"
                )
            if count < k or k >= U.shape[1]:
                return ritz.values[:count], ritz.vectors
            k, U = count + 1, ritz.vectors

    def edge(self, lr: float) -> float:
        """2 / lr, the edge of the gradient descent that the flow describes."""
        return 2 / lr

    def columns(self, state: State, lr: float) -> dict[str, float]:
        """`central_variance` = tr S, the predicted mean |w_t - w|^2 of the weights w_t of gradient descent
        around those of the flow, w."""
        return {"central_variance": float(state[2])}


def centered(
    surface: LossSurface, w: Tensor, g: Tensor, values: Tensor, U: Tensor, edge: float, time: float
) -> tuple[Tensor, float]:
    """-(grad L + 1/2 grad <H, S>) [D] and tr S at w, given the gradient g [D] and the eigenpairs near the
    edge, `values` [k] and U [k, D]. S is such that after a piece of length `time` the block of H in the span
    of U is at most `edge`, and S is 0 in directions in which it is below.

    In an orthonormal basis E_b of the symmetric matrices [k, k], h_b = <U H U^T, E_b> has the gradient G_b
    [D], and S = U^T X U with X = sum_b x_b E_b adds -1/2 G^T x to the velocity. After the piece h has become
    h + time (-G g - 1/2 G G^T x). That this is at most the edge, X >= 0, and the complementarity of the two
    determine x.
    """
    k = len(values)
    if not k:
        return -g, 0.0
    squares = [surface.curvature_grad(w, u[None]) for u in U]  # the gradient of u.Hu for each row u

    def block_gradient(i: int, j: int) -> Tensor:
        """The gradient [D] of u_i.Hu_i, or of sqrt(2) u_i.Hu_j, by polarization."""
        if i == j:
            return squares[i]
        of_sum = surface.curvature_grad(w, (U[i] + U[j])[None] / 2**0.5)
        return 2**0.5 * (of_sum - (squares[i] + squares[j]) / 2)

    G = torch.stack([block_gradient(i, j) for i, j in pairs(k)])
    distance = svec(torch.diag(edge - values.double()))  # from h to the edge
    excess_rate = -(G @ g).double().cpu() - distance / time  # at which h would pass the edge without S
    try:
        x = least((G @ G.T).double().cpu() / 2, excess_rate)
    except ValueError as problem:
        raise Refusal(
            f"central_flow: no oscillation lowers the curvature {float(values[0]):g} to 2/lr = {edge:g} "
            f"here ({problem}); take a smaller lr"
        ) from None
    return -g - (x.to(G) @ G) / 2, float(smat(x, k).trace())
