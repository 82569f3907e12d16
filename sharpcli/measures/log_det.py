"""Log-determinant and rank of the Hessian over its non-zero eigenvalues, as in Laplace approximations of the
evidence (MacKay 1992)."""

from __future__ import annotations

import math

import torch

from sharpcli.errors import Refusal
from sharpcli.linalg import accuracy
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
            loss/weight^2; error: log_det ± 2 log_det_stderr covers it in at least 95 % of cases. From the
            dense Hessian it is what rounding can do, most to the smallest eigenvalues; else it includes that
            few nodes stand for the many eigenvalues around the threshold, and may exceed the value
        rank [-, error _stderr]: the number of eigenvalues above the threshold; error: as of log_det
        log_det_cut [loss/weight^2]: the threshold
        log_det_below [-]: the number of eigenvalues below minus the threshold, which is 0 at a minimum
    """
    if not 0 < cut < 1 or probes < 2 or steps < 2:
        raise Refusal(
            f"measure.log_det: cut={cut}, probes={probes}, steps={steps}; a cut between 0 and 1, at least 2 "
            f"of each"
        )
    D, eps = len(at.w), accuracy.eps(at.w)
    if D <= DENSE:
        lam = torch.linalg.eigvalsh(at.curvature.dense("hessian").double())
        threshold = cut * float(lam.abs().max())
        above = lam[lam > threshold]
        shift = eps * float(lam.abs().max())
        unclear = int(((lam - threshold).abs() <= shift / 2).sum()) if threshold else 0
        # The log of lambda_i moves by shift / lambda_i, each in its own direction.
        moved = 2 * float((shift / above).square().sum().sqrt())
        values: dict[str, float] = {
            "log_det": float(above.log().sum()),
            "log_det_stderr": math.hypot(moved, 0.5 * unclear * abs(math.log(threshold or 1.0))),
            "rank": len(above),
            "rank_stderr": 0.5 * unclear,
        }
        return Estimates(
            values | {"log_det_cut": threshold, "log_det_below": int((lam < -threshold).sum())}, D
        )
    quadrature, products = at.curvature.quadrature("hessian", probes, steps)
    threshold = cut * float(quadrature.nodes.abs().max())
    above = (quadrature.nodes > threshold).double()
    logs = quadrature.nodes.clamp_min(threshold).log() if threshold else torch.zeros_like(quadrature.nodes)
    mean_log, mean_log_stderr = quadrature.mean(above * logs, D)
    share, share_stderr = quadrature.mean(above, D)
    below, _ = quadrature.mean((quadrature.nodes < -threshold).double(), D)
    weight, log_weight = quadrature.around(threshold, logs)
    values = {
        "log_det": D * mean_log,
        "log_det_stderr": D * math.hypot(mean_log_stderr, 0.5 * log_weight),
        "rank": D * share,
        "rank_stderr": D * math.hypot(share_stderr, 0.5 * weight),
    }
    return Estimates(values | {"log_det_cut": threshold, "log_det_below": D * below}, products)
