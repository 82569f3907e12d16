"""The Fisher-Rao norm of Liang et al. 2019, arXiv:1711.01530."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def fisher_rao(at: Point) -> Estimates:
    """`fisher_rao` = w.Gw with the Gauss-Newton matrix G (for cross-entropy the true Fisher: the empirical
    one vanishes at interpolation). Exact, one product. For a linear model under half squared loss it is (1/n)
    sum_i |f_i|^2; in a ReLU network it does not move when a neuron's incoming weights are scaled by c and its
    outgoing ones by 1/c."""
    return Estimates(
        {"fisher_rao": float(at.w.double() @ at.curvature.linearization.ggn(at.w).double())}, products=1
    )
