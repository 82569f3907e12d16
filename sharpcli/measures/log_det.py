"""Log-determinant and rank of the Hessian over its non-zero eigenvalues, as in Laplace approximations of the
evidence (MacKay 1992)."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point

DENSE = 5000  # parameters up to which the whole matrix is computed


def log_det(at: Point, *, cut: float, probes: int, steps: int) -> Estimates:
    """The log-determinant of the Hessian over its eigenvalues above the threshold `cut` max_i |lambda_i|, and
    their number.

    From the dense Hessian where D <= 5,000, else by Lanczos quadrature of `probes` random starts and `steps`
    steps. Where no gap separates the eigenvalues at the threshold, the rank depends on the choice of `cut`.
    Refuses a cut outside (0, 1), fewer than 2 probes or steps.

    Columns:
        log_det [-, error _stderr]: sum of log lambda_i over the eigenvalues above the threshold, lambda_i in
            loss/weight^2; error: the standard error over probes, 0 from the dense Hessian
        rank [-, error _stderr]: the number of eigenvalues above the threshold; error: the standard error over
            probes, 0 from the dense Hessian
        log_det_cut [loss/weight^2]: the threshold
        log_det_below [-]: the number of eigenvalues below minus the threshold, which is 0 at a minimum
    """
    if not 0 < cut < 1 or probes < 2 or steps < 2:
        raise Refusal(
            f"measure.log_det: cut={cut}, probes={probes}, steps={steps}; a cut between 0 and 1, at least 2 "
            f"of each"
        )
    D = len(at.w)
    if D <= DENSE:
        lam = torch.linalg.eigvalsh(at.curvature.dense("hessian").double())
        threshold = cut * float(lam.abs().max())
        above = lam[lam > threshold]
        values = {
            "log_det": float(above.log().sum()),
            "log_det_stderr": 0.0,
            "rank": len(above),
            "rank_stderr": 0.0,
        }
        return Estimates(
            values | {"log_det_cut": threshold, "log_det_below": int((lam < -threshold).sum())}, D
        )
    quadrature, products = at.curvature.quadrature("hessian", probes, steps)
    threshold = cut * float(quadrature.nodes.abs().max())
    above = (quadrature.nodes > threshold).double()
    mean_log, mean_log_stderr = quadrature.mean(above * quadrature.nodes.clamp_min(threshold).log())
    share, share_stderr = quadrature.mean(above)
    below, _ = quadrature.mean((quadrature.nodes < -threshold).double())
    values = {
        "log_det": D * mean_log,
        "log_det_stderr": D * mean_log_stderr,
        "rank": D * share,
        "rank_stderr": D * share_stderr,
    }
    return Estimates(values | {"log_det_cut": threshold, "log_det_below": D * below}, products)
