"""Stochastic Lanczos quadrature: (1/D) Tr f(A) as an average over random start vectors (Golub & Meurant,
Matrices, Moments and Quadrature, 2010; Ghorbani et al. 2019, arXiv:1901.10159)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sharpcli.linalg.krylov import Krylov

Rule = tuple[Float64[Tensor, " _"], Float64[Tensor, " _"]]  # nodes and weights [m], m specific to the rule


@dataclass(frozen=True)
class Quadrature:
    """Quadrature rules of several random start vectors (probes): (1/D) Tr f(A) is estimated by the mean over
    probes of sum_j weights_j f(nodes_j).

    `nodes` and `weights` are [probes, m]; the weights of a probe sum to 1. The sum of a probe with unit start
    vector v equals v.f(A)v for polynomials f of degree up to 2 m - 1.
    """

    nodes: Float64[Tensor, "probes m"]
    weights: Float64[Tensor, "probes m"]

    def mean(self, values: Float64[Tensor, "probes m"]) -> tuple[float, float]:
        """The estimate of (1/D) Tr f(A) from the `values` f(nodes), and its standard error over probes; NaN
        for a single probe."""
        samples = (self.weights * values).sum(1)
        stderr = float(samples.std() / len(samples) ** 0.5) if len(samples) > 1 else float("nan")
        return float(samples.mean()), stderr

    def curve(
        self, grid: Float[Tensor, " q"], width: Tensor | float
    ) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
        """The density of the eigenvalues at the points of `grid`, each node smoothed to a Gaussian of
        standard deviation `width`; and its standard error over probes."""
        bells = torch.exp(-0.5 * ((grid[:, None, None] - self.nodes) / width) ** 2) / (
            width * (2 * torch.pi) ** 0.5
        )
        samples = (bells * self.weights).sum(2)
        return samples.mean(1), samples.std(1) / samples.shape[1] ** 0.5


def rule(krylov: Krylov) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """The Gauss quadrature of a Krylov run from a single start vector: the Ritz values, and the squared first
    components of the eigenvectors of T. A restart would destroy that meaning of the first component."""
    assert not krylov.restarted
    theta, Y = krylov.ritz()
    return theta, Y[:, 0].square()


def extend(krylov: Krylov, steps: int) -> None:
    """Continues the Lanczos run to `steps` basis vectors, or fewer if the basis becomes invariant under A or
    reaches its capacity."""
    for _ in range(min(steps, krylov.capacity) - krylov.size):
        if not krylov.width or not krylov.grow(torch.eye(krylov.width, dtype=torch.float64)[:1]):
            return


def stack(rules: list[Rule]) -> Quadrature:
    """Combines the rules of several probes into one object; a rule with fewer nodes is padded with nodes of
    weight 0."""
    m = max(len(nodes) for nodes, _ in rules)
    nodes = torch.stack([torch.cat([t, t[-1:].expand(m - len(t))]) for t, _ in rules])
    weights = torch.stack([torch.cat([w, w.new_zeros(m - len(w))]) for _, w in rules])
    return Quadrature(nodes, weights)
