"""The manifold of minimizers near w, Li, Wang & Arora 2022, arXiv:2110.06914: its dimension, its distance,
and the slope of Tr H along it."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.interpolators import MAX_JACOBIAN_ENTRIES, Interpolators, tangent
from sharpcli.landscape.third_derivatives import check_third_derivatives
from sharpcli.measures import Estimates, Point, counted


def manifold(at: Point, *, cut: float, tol: float) -> Estimates:
    """The rank of the outputs' Jacobian at w, and the minimizer w* that Newton's steps w <- w - (df/dw)^+ r
    reach from w.

    B_i [C, C] is the Hessian of example i's loss in its C outputs f_i, and I for half squared loss. J [nC, D]
    is the Jacobian of all outputs, the rows of example i multiplied by B_i^(1/2). The residuals r [nC] are
    B_i^(-1) (d loss_i / d f_i): f_i - y_i for half squared loss. For toys and small networks: refuses
    Jacobians and Hessians of more than 2e7 entries, a loss without interpolators (cross-entropy), tol <= 0
    and a cut outside (0, 1).

    Columns:
        manifold_rank [-]: the number of singular values above `cut` times the largest, of the outputs'
            Jacobian J at w; D less this rank is the dimension of the manifold
        manifold_gap [-]: the smallest singular value that the rank counts over the largest that it does not
            count; null where it counts all or none, and where it leaves out only zeros
        manifold_condition [-]: the largest singular value over the smallest that the rank counts
        manifold_distance [weight]: |w* - w|
        manifold_residual [output]: max |r| at w*, r the residuals (f_i - y_i for half squared loss)
        manifold_converged [-]: whether manifold_residual is at most `tol`
        manifold_slope [loss/weight^3]: |(I - J^+ J) grad Tr H| at w*: the speed of label noise's limiting
            flow, up to its factor
    """
    if not 0 < cut < 1 or not tol > 0:
        raise Refusal(f"measure.manifold: cut={cut} and tol={tol}; a cut between 0 and 1, tol above 0")
    D = len(at.w)
    if D * D > MAX_JACOBIAN_ENTRIES:
        raise Refusal(
            f"measure=manifold: a Hessian of {D * D:,} entries; at most {MAX_JACOBIAN_ENTRIES:,}: take a "
            f"smaller model"
        )
    surface, spent = counted(at.surface)
    interpolators = Interpolators(surface)
    values = _rank(torch.linalg.svdvals(interpolators.jacobian(at.w).double()), cut)
    w, residual = interpolators.project(at.w, tol)
    check_third_derivatives(at.surface, w)
    trace_gradient = at.surface.curvature_grad(w, torch.eye(D, dtype=w.dtype, device=w.device))
    tangent_part, _ = tangent(interpolators.jacobian(w), trace_gradient, cut)
    values |= {
        "manifold_distance": float((w - at.w).double().norm()),
        "manifold_residual": residual,
        "manifold_converged": residual <= tol,
        "manifold_slope": float(tangent_part.double().norm()),
    }
    return Estimates(values, products=2 * D, gradients=spent())  # grad v.Hv costs about two products


def _rank(S: Tensor, cut: float) -> dict[str, float | int | None]:
    rank = int((cut * S[0] < S).sum())
    gap = float(S[rank - 1] / S[rank]) if 0 < rank < len(S) and float(S[rank]) > 0 else None
    return {
        "manifold_rank": rank,
        "manifold_gap": gap,
        "manifold_condition": float(S[0] / S[rank - 1]) if rank else None,
    }
