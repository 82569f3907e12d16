"""The rank of the Hessian, which on the manifold of interpolators is the number of outputs; Cooper 2018,
arXiv:1804.10200."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point

LARGEST = 4000  # parameters whose dense Hessian is diagonalized


def hessian_rank(at: Point, *, cut: float) -> Estimates:
    """`hessian_rank`, the number of eigenvalues above `cut` times the largest in absolute value, and
    `hessian_gap`, the ratio of the least of them to the largest of the others. Refuses more than 4,000
    parameters and a cut outside (0, 1)."""
    if not 0 < cut < 1 or len(at.w) > LARGEST:
        raise Refusal(
            f"measure.hessian_rank: cut={cut}, {len(at.w)} parameters; a cut in (0, 1), at most {LARGEST} "
            f"parameters"
        )
    size = torch.linalg.eigvalsh(at.curvature.dense("hessian").double()).abs().sort(descending=True).values
    rank = int((size > cut * size[0]).sum())
    gap = float(size[rank - 1] / size[rank]) if 0 < rank < len(size) and float(size[rank]) > 0 else None
    return Estimates({"hessian_rank": rank, "hessian_gap": gap}, products=len(at.w))
