"""Spectral density of the Hessian by stochastic Lanczos quadrature (Ghorbani et al. 2019; Papyan 2019)."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def density(at: Point, *, probes: int, steps: int) -> Estimates:
    """The density phi of the D eigenvalues of H as `density_nodes` and `density_weights` [probes][steps]: the
    mean over probes of sum_j weights_j f(nodes_j) estimates (1/D) sum_i f(lambda_i), here by `steps` Lanczos
    steps each, with full re-orthogonalisation.

    `density_mean` = Tr H / D and `density_square` = |H|_F^2 / D with standard errors over probes;
    `density_least` and `density_most` the outermost nodes. `sharp plot density` draws it. The first probe is
    the start of `sharpness` and `log_det`, which then cost less. Refuses fewer than 2 probes or 2 steps.
    """
    if probes < 2 or steps < 2:
        raise Refusal(
            f"measure.density: probes={probes} and steps={steps}; at least 2 of each, for a spread and a "
            f"spectrum"
        )
    quadrature, products = at.curvature.quadrature("hessian", probes, steps)
    values = {}
    for name, power in (("density_mean", 1), ("density_square", 2)):
        values[name], values[f"{name}_stderr"] = quadrature.mean(quadrature.nodes**power)
    values |= {"density_least": float(quadrature.nodes.min()), "density_most": float(quadrature.nodes.max())}
    lists = {"density_nodes": quadrature.nodes.tolist(), "density_weights": quadrature.weights.tolist()}
    return Estimates(values | lists, products)
