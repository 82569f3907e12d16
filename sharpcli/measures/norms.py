"""Norms of the weights, and of the function that they compute, where the problem defines them; the path norm
after Neyshabur et al. 2015."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def norms(at: Point) -> Estimates:
    """Norms of the weights, and norms that the problem's structure defines.

    depth is the number of weight matrices of a network.

    Columns:
        l2_norm [weight, exact]: |w|_2
        init_distance [weight, exact]: |w - w_0|_2, w_0 where training began; absent for a file of weights
        path_norm [weight^depth, exact]: networks of linear layers and ReLU: the sum over paths from an input
            to an output of the product of |weights| along the path, biases as weights from a constant input
        barron_norm [weight^2, exact]: two layers with ReLU between: sum_j |a_j|_1 |(w_j, b_j)|_2, w_j and b_j
            the incoming weights and bias of neuron j, a_j its outgoing weights
        nuclear_norm [weight^depth, exact]: linear networks and matrix problems: the sum of the singular
            values of the product of all weight matrices
        schatten_norm [weight^2, exact]: linear networks: the sum of the same singular values to the power 2 /
            depth
        l1_norm [weight^2, exact]: uv, hadamard, squares: |u*u - v*v|_1, |u*v|_1 or |v*v|_1
        trace_floor [loss/weight^2, exact]: teacher and xor of depth 2 without layer or batch norm: 2 sum_j
            sqrt(Tr H_wj Tr H_aj), H_wj and H_aj the blocks of H for (w_j, b_j) and a_j: the least Tr H that
            multiplying (w_j, b_j) by c_j and a_j by 1/c_j can give
    """
    values = {"l2_norm": float(at.w.double().norm())} | at.problem.norms(at.w)
    if at.init is not None:
        values["init_distance"] = float((at.w - at.init).double().norm())
    return Estimates(values)
