"""Spectral density of the Hessian by stochastic Lanczos quadrature: Ghorbani et al. 2019, arXiv:1901.10159;
Papyan 2019."""

from __future__ import annotations

import math

from sharpcli.errors import Refusal
from sharpcli.linalg.accuracy import trace_rounding
from sharpcli.measures import Estimates, Point


def density(at: Point, *, probes: int, steps: int) -> Estimates:
    """The density of the D eigenvalues of the Hessian H as nodes and weights: the mean over probes of sum_j
    weights_j f(nodes_j) estimates (1/D) sum_i f(lambda_i).

    Each of the `probes` is a random start of `steps` Lanczos steps with full re-orthogonalisation. `log_det`
    uses the same starts, and `sharpness` the first: measured together they cost less. `sharp plot density`
    draws the density. Refuses fewer than 2 probes or 2 steps.

    Columns:
        density_nodes [loss/weight^2]: for each probe a list of nodes, its Ritz values: estimates of
            eigenvalues
        density_weights [-]: for each probe a list of weights: the share of the eigenvalues that each node
            stands for; the weights of a probe add up to 1
        density_mean [loss/weight^2, error _stderr]: Tr H / D, the mean eigenvalue; density_mean ± 2
            density_mean_stderr covers it in at least 95 % of cases
        density_square [loss^2/weight^4, error _stderr]: |H|_F^2 / D, the mean squared eigenvalue; error: as
            of density_mean
        density_least [loss/weight^2]: the smallest node: no smaller than the smallest eigenvalue of H, up to
            rounding
        density_most [loss/weight^2]: the largest node: no larger than lambda_1, up to rounding
    """
    if probes < 2 or steps < 2:
        raise Refusal(
            f"measure.density: probes={probes} and steps={steps}; at least 2 of each, for a spread and a "
            f"spectrum"
        )
    quadrature, products = at.curvature.quadrature("hessian", probes, steps)
    D, nodes = len(at.w), quadrature.nodes
    mean, mean_stderr = quadrature.mean(nodes, D)
    square, square_stderr = quadrature.mean(nodes.square(), D)
    rounding = trace_rounding((D * square) ** 0.5, at.w) / D
    values = {
        "density_mean": mean,
        "density_mean_stderr": math.hypot(mean_stderr, rounding),
        "density_square": square,
        "density_square_stderr": math.hypot(square_stderr, 2 * float(nodes.abs().max()) * rounding),
    }
    values |= {"density_least": float(quadrature.nodes.min()), "density_most": float(quadrature.nodes.max())}
    lists = {"density_nodes": quadrature.nodes.tolist(), "density_weights": quadrature.weights.tolist()}
    return Estimates(values | lists, products)
