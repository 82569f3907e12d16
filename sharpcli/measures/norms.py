"""Norms of the weights and of what they compute, where the problem has them."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def norms(at: Point) -> Estimates:
    """`l2_norm` = |w|, `init_distance` = |w - w0|, and the problem's own: `l1_norm` of u*u - v*v (uv); of
    networks of linear layers and ReLU the `path_norm` (the sum over paths of the product of |weights|, biases
    as weights from a constant input; Neyshabur et al. 2015), of two of them the `barron_norm` sum_j |a_j|
    |(w_j, b_j)|; of linear networks the `nuclear_norm` of the end-to-end matrix and its Schatten 2/depth
    quasi-norm. Exact."""
    own = {"l2_norm": float(at.w.double().norm())} | at.problem.norms(at.w)
    if at.init is not None:
        own["init_distance"] = float((at.w - at.init).double().norm())
    return Estimates(own)
