"""The Fisher-Rao norm of Liang et al. 2019, arXiv:1711.01530."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def fisher_rao(at: Point) -> Estimates:
    """The Fisher-Rao norm w.Gw, G the Gauss-Newton matrix: for cross-entropy the true Fisher matrix (the
    empirical Fisher matrix vanishes at interpolation).

    One product. For a linear model under half squared loss it is (1/n) sum_i |f_i|^2, f_i the outputs of
    example i. In a ReLU network it does not change when a neuron's incoming weights and bias are multiplied
    by c and its outgoing weights by 1/c.

    Columns:
        fisher_rao [loss, exact]: w.Gw
    """
    return Estimates(
        {"fisher_rao": float(at.w.double() @ at.curvature.linearization.ggn(at.w).double())}, products=1
    )
