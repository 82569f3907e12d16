"""The rank of the Hessian, which on the manifold of interpolators is the number of outputs of all examples;
Cooper 2018, arXiv:1804.10200."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point

LARGEST = 4000  # parameters whose dense Hessian is diagonalized


def hessian_rank(at: Point, *, cut: float) -> Estimates:
    """The rank of the Hessian, from all its eigenvalues. Refuses more than 4,000 parameters and a cut outside
    (0, 1).

    Columns:
        hessian_rank [-]: the number of eigenvalues lambda_i with |lambda_i| > `cut` max_j |lambda_j|
        hessian_gap [-]: the smallest |lambda_i| that the rank counts over the largest that it does not count:
            large where the rank is clear; null where it counts all or none, and where it leaves out only
            zeros
    """
    if not 0 < cut < 1 or len(at.w) > LARGEST:
        raise Refusal(
            f"measure.hessian_rank: cut={cut}, {len(at.w)} parameters; a cut in (0, 1), at most {LARGEST} "
            f"parameters"
        )
    magnitudes = (
        torch.linalg.eigvalsh(at.curvature.dense("hessian").double()).abs().sort(descending=True).values
    )
    rank = int((magnitudes > cut * magnitudes[0]).sum())
    gap = (
        float(magnitudes[rank - 1] / magnitudes[rank])
        if 0 < rank < len(magnitudes) and float(magnitudes[rank]) > 0
        else None
    )
    return Estimates({"hessian_rank": rank, "hessian_gap": gap}, products=len(at.w))
