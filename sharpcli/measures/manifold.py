"""The manifold of minimizers near w, Li, Wang & Arora 2022, arXiv:2110.06914: its dimension, its distance, and the slope of
Tr H along it."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point

LARGEST = 20_000_000  # entries of the Jacobian that are computed
STEPS = 30


def manifold(at: Point, *, cut: float, tol: float) -> Estimates:
    """With J [nC, D] the Jacobian of all outputs at w: `manifold_rank`, its number of singular values above `cut` times
    the largest, `manifold_gap`, the ratio of the last one kept to the first left out, `manifold_condition` of those kept;
    `manifold_distance`, |w* - w| to the minimizer w* that Newton's steps w <- w - J^+ r reach (r the residuals: the
    loss's gradient in the outputs over its Hessian), `manifold_residual`, max |r| there, `manifold_converged`; and at w*
    `manifold_slope` = |(I - J^+ J) grad Tr H|, the speed of label noise's limiting flow, up to its factor.

    For toys and small networks: refuses Jacobians of more than 2e7 entries, and a cut outside (0, 1).
    """
    if not 0 < cut < 1 or not tol > 0:
        raise Refusal(f"measure.manifold: cut={cut} and tol={tol}; a cut between 0 and 1, tol above 0")
    D = len(at.w)
    x, y = at.surface.joined
    size = at.surface.predict(at.w, x).numel() * D
    if max(size, D * D) > LARGEST:
        raise Refusal(
            f"measure=manifold: a Jacobian of {size:,} entries and a Hessian of {D * D:,}; at most {LARGEST:,} each: "
            "take fewer examples (measure_examples=) or a smaller model"
        )

    def outputs(w: Tensor) -> Tensor:
        return at.surface.predict(w, x).flatten()

    def jacobian(w: Tensor) -> Tensor:
        return torch.func.jacrev(outputs)(w).detach()

    def residual(w: Tensor) -> Tensor:
        f = at.surface.predict(w, x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(at.surface.loss(f, y), f, create_graph=True)
        curved = torch.autograd.grad(slope.sum(), f)[0]
        return (slope / curved).detach().flatten()

    values = _rank(torch.linalg.svdvals(jacobian(at.w).double()), cut)
    w, gradients = at.w, float(x.shape[0])
    for _ in range(STEPS):
        r = residual(w)
        if float(r.abs().max()) <= tol:
            break
        w = w - torch.linalg.lstsq(jacobian(w), r[:, None], driver="gelsd").solution[:, 0]
    r = residual(w)
    _, S, Vh = torch.linalg.svd(jacobian(w).double(), full_matrices=False)
    normal = Vh[cut * S.max() < S]
    eye = torch.eye(D, dtype=w.dtype, device=w.device)
    pull = at.surface.curvature_grad(w, eye).double()
    values |= {
        "manifold_distance": float((w - at.w).double().norm()),
        "manifold_residual": float(r.abs().max()),
        "manifold_converged": float(r.abs().max()) <= tol,
        "manifold_slope": float((pull - normal.T @ (normal @ pull)).norm()),
    }
    return Estimates(values, products=D, gradients=gradients)


def _rank(S: Tensor, cut: float) -> dict[str, float | int | None]:
    rank = int((cut * S[0] < S).sum())
    gap = float(S[rank - 1] / S[rank]) if 0 < rank < len(S) and float(S[rank]) > 0 else None
    return {"manifold_rank": rank, "manifold_gap": gap, "manifold_condition": float(S[0] / S[rank - 1]) if rank else None}
