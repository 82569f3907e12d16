"""The manifold of minimizers near w, Li, Wang & Arora 2022, arXiv:2110.06914: its dimension, its distance,
and the slope of Tr H along it."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.interpolators import LARGEST_JACOBIAN, Interpolators, tangent
from sharpcli.measures import Estimates, Point


def manifold(at: Point, *, cut: float, tol: float) -> Estimates:
    """With J [nC, D] the Jacobian of all outputs at w: `manifold_rank`, its number of singular values above
    `cut` times the largest, `manifold_gap`, the ratio of the last one kept to the first left out,
    `manifold_condition` of those kept; `manifold_distance`, |w* - w| to the minimizer w* that Newton's steps
    w <- w - J^+ r reach (r the residuals: the loss's gradient in the outputs over its Hessian),
    `manifold_residual`, max |r| there, `manifold_converged`; and at w* `manifold_slope` = |(I - J^+ J) grad
    Tr H|, the speed of label noise's limiting flow, up to its factor.

    For toys and small networks: refuses Jacobians of more than 2e7 entries, a loss without interpolators
    (cross-entropy), and a cut outside (0, 1).
    """
    if not 0 < cut < 1 or not tol > 0:
        raise Refusal(f"measure.manifold: cut={cut} and tol={tol}; a cut between 0 and 1, tol above 0")
    D = len(at.w)
    if D * D > LARGEST_JACOBIAN:
        raise Refusal(
            f"measure=manifold: a Hessian of {D * D:,} entries; at most {LARGEST_JACOBIAN:,}: take a "
            f"smaller model"
        )
    interpolators = Interpolators(at.surface)
    values = _rank(torch.linalg.svdvals(interpolators.jacobian(at.w).double()), cut)
    w, residual = interpolators.project(at.w, tol)
    pull = at.surface.curvature_grad(w, torch.eye(D, dtype=w.dtype, device=w.device))
    along, _ = tangent(interpolators.jacobian(w), pull, cut)
    values |= {
        "manifold_distance": float((w - at.w).double().norm()),
        "manifold_residual": residual,
        "manifold_converged": residual <= tol,
        "manifold_slope": float(along.double().norm()),
    }
    return Estimates(values, products=D, gradients=float(at.surface.examples))


def _rank(S: Tensor, cut: float) -> dict[str, float | int | None]:
    rank = int((cut * S[0] < S).sum())
    gap = float(S[rank - 1] / S[rank]) if 0 < rank < len(S) and float(S[rank]) > 0 else None
    return {
        "manifold_rank": rank,
        "manifold_gap": gap,
        "manifold_condition": float(S[0] / S[rank - 1]) if rank else None,
    }
