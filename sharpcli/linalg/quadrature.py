"""Stochastic Lanczos quadrature: f(A) averaged over random directions (Golub & Meurant; Ghorbani et al. 2019,
arXiv:1901.10159)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.linalg.lanczos import Krylov


@dataclass(frozen=True)
class Quadrature:
    """Tr f(A) / D, as the mean over probes of sum_j weights_j f(nodes_j): both [probes, m] in float64,
    weights of a probe adding up to 1. Exact for polynomials up to degree 2 m - 1 in each probe."""

    nodes: Tensor
    weights: Tensor

    def mean(self, values: Tensor) -> tuple[float, float]:
        """The mean of f over the spectrum, given `values` f(nodes) [probes, m], and its standard error over
        probes."""
        each = (self.weights * values).sum(1)
        stderr = float(each.std() / len(each) ** 0.5) if len(each) > 1 else float("nan")
        return float(each.mean()), stderr

    def curve(self, grid: Tensor, width: Tensor | float) -> tuple[Tensor, Tensor]:
        """The density on `grid` [q], every node a Gaussian of standard deviation `width`: mean and standard
        error."""
        bells = torch.exp(-0.5 * ((grid[:, None, None] - self.nodes) / width) ** 2) / (
            width * (2 * torch.pi) ** 0.5
        )
        each = (bells * self.weights).sum(2)
        return each.mean(1), each.std(1) / each.shape[1] ** 0.5


def rule(krylov: Krylov) -> tuple[Tensor, Tensor]:
    """Nodes and weights [m] of a Krylov run from one start vector that was never cut back."""
    assert not krylov.restarted
    theta, Y = krylov.ritz()
    return theta, Y[:, 0].square()


def extend(krylov: Krylov, steps: int) -> None:
    """Runs Lanczos on to `steps` basis vectors, or to the end of what the start vector reaches."""
    while krylov.size < min(steps, krylov.capacity) and krylov.width:
        krylov.grow(torch.eye(krylov.width, dtype=torch.float64)[:1])


def stack(rules: list[tuple[Tensor, Tensor]]) -> Quadrature:
    """The rules of several probes as one; a shorter one is filled up with nodes of no weight."""
    most = max(len(nodes) for nodes, _ in rules)
    nodes = torch.stack([torch.cat([t, t[-1:].expand(most - len(t))]) for t, _ in rules])
    weights = torch.stack([torch.cat([w, w.new_zeros(most - len(w))]) for _, w in rules])
    return Quadrature(nodes, weights)
