"""Log-determinant and rank of the Hessian over its non-zero eigenvalues, as in Laplace approximations of the
evidence."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point

DENSE = 5000  # parameters up to which the whole matrix is computed


def log_det(at: Point, *, cut: float, probes: int, steps: int) -> Estimates:
    """`log_det` = sum of log lambda_i and `rank` = number of lambda_i, over the eigenvalues above `cut`
    |lambda_1|.

    From the dense Hessian where D <= 5,000 (errors 0; a rank with no gap at the cut is still a choice); else
    by Lanczos quadrature, with standard errors over `probes`. `log_det_cut` is the cut in the units of H;
    `log_det_below`, the number of eigenvalues under -cut, is not 0 away from a minimum. Refuses a cut outside
    (0, 1), fewer than 2 probes or steps.
    """
    if not 0 < cut < 1 or probes < 2 or steps < 2:
        raise Refusal(
            f"measure.log_det: cut={cut}, probes={probes}, steps={steps}; a cut between 0 and 1, at least 2 "
            f"of each"
        )
    D = len(at.w)
    if D <= DENSE:
        lam = torch.linalg.eigvalsh(at.curvature.dense("hessian").double())
        limit = cut * float(lam.abs().max())
        over = lam[lam > limit]
        values = {
            "log_det": float(over.log().sum()),
            "log_det_stderr": 0.0,
            "rank": len(over),
            "rank_stderr": 0.0,
        }
        return Estimates(values | {"log_det_cut": limit, "log_det_below": int((lam < -limit).sum())}, D)
    quadrature, products = at.curvature.quadrature("hessian", probes, steps)
    limit = cut * float(quadrature.nodes.abs().max())
    over = (quadrature.nodes > limit).double()
    logs, logs_stderr = quadrature.mean(over * quadrature.nodes.clamp_min(limit).log())
    share, share_stderr = quadrature.mean(over)
    below, _ = quadrature.mean((quadrature.nodes < -limit).double())
    values = {
        "log_det": D * logs,
        "log_det_stderr": D * logs_stderr,
        "rank": D * share,
        "rank_stderr": D * share_stderr,
    }
    return Estimates(values | {"log_det_cut": limit, "log_det_below": D * below}, products)
