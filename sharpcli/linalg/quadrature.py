"""Stochastic Lanczos quadrature: (1/D) Tr f(A) as an average over random start vectors (Golub & Meurant,
Matrices, Moments and Quadrature, 2010; Ghorbani et al. 2019, arXiv:1901.10159)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sharpcli.linalg.accuracy import stderr_by_variances
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

    def mean(self, values: Float64[Tensor, "probes m"], dimension: int) -> tuple[float, float]:
        """The estimate of (1/D) Tr f(A) from the `values` f(nodes), D the `dimension`, and half the half
        width of its interval (`accuracy`) over probes; NaN for a single probe.

        For v uniform on the unit sphere v.f(A)v varies by 2 / (D + 2) (Tr f(A)^2 / D - (Tr f(A) / D)^2), and
        each probe estimates Tr f(A)^2 / D by sum_j weights_j f(nodes_j)^2.
        """
        samples, squares = (self.weights * values).sum(1), (self.weights * values.square()).sum(1)
        mean = float(samples.mean())
        if len(samples) < 2:
            return mean, float("nan")
        variances = 2 / (dimension + 2) * (squares - mean**2)
        return mean, stderr_by_variances(variances, len(samples))

    def around(self, x: float, values: Float64[Tensor, "probes m"]) -> tuple[float, float]:
        """The weight of the two nodes around x, and that weight times the largest |value| of the two and of
        the next node above, as means over probes.

        Between its neighbours it is open where the weight of a node lies: the share of the eigenvalues above
        x is known up to the weights of the two nodes around x (the inequalities of Chebyshev, Markov and
        Stieltjes), and a sum over them up to that weight times the values there.
        """
        nodes, weights, sizes = self.nodes.flip(1), self.weights.flip(1), values.flip(1).abs()  # increasing
        first = torch.searchsorted(nodes, torch.full_like(nodes[:, :1], x), right=True)
        last = nodes.shape[1] - 1
        below, above, next_above = ((first + i).clamp(0, last) for i in (-1, 0, 1))
        inside = (below != above).double()  # x beyond all nodes has a single neighbour
        weight = weights.gather(1, below) + inside * weights.gather(1, above)
        largest = torch.cat([sizes.gather(1, i) for i in (below, above, next_above)], 1).amax(1, keepdim=True)
        return float(weight.mean()), float((weight * largest).mean())

    def curve(self, grid: Any, width: Tensor | float) -> tuple[Float[Tensor, " q"], Float[Tensor, " q"]]:
        """The density of the eigenvalues at the points of `grid` (q numbers: a tensor, an array or a list),
        each node smoothed to a Gaussian of standard deviation `width`; and its standard error over probes."""
        grid = torch.as_tensor(grid, dtype=self.nodes.dtype, device=self.nodes.device)
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
