"""The model of self-stabilization, with noise in the sharp direction: Damian, Nichani & Lee 2023,
arXiv:2209.15594, section 4.1; with stochastic gradients arXiv:2604.21016."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.problems.problem import Problem
from sharpcli.problems.regression import layout


def self_stabilization(*, start: list[float], push: float, rise: float, noise: float) -> Problem:
    """L_+-(u, v) = 1/2 S(u) v^2 - `push` u +- `noise` v with the sharpness S(u) = `rise` u along v: two
    examples, whose mean L has no minimum. From u, v = `start`, in float64.

    Gradient flow at v = 0 sharpens at the rate alpha = -grad L . grad S = push rise. A large v flattens,
    dS/dt = alpha - beta v^2 / 2 with beta = |grad S|^2 = rise^2. In batches of one example the gradient along
    v has the variance sigma^2 = noise^2. Where S rests, E v^2 = 2 alpha / beta; SGD at a fixed S has E v^2 =
    lr sigma^2 / (S (2 - lr S)). So S stays below 2/lr by the gap g with g (2/lr - g) = beta sigma^2 / (2
    alpha), which is lr beta sigma^2 / (4 alpha) to first order.

    The scores are `sharpness_along_v`, S(u), and `v`. Refuses a start that is not two numbers, and a `rise`
    or `push` that is not above 0.
    """
    if len(start) != 2:
        raise Refusal(f"problem.start={list(start)}: there are two parameters; give [u, v]")
    if not rise > 0 or not push > 0:
        raise Refusal(f"problem.rise={rise} and problem.push={push}: both above 0, or nothing sharpens")
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        u, v = outputs[:, 0], outputs[:, 1]
        return (0.5 * rise * u * v.square() - push * u + noise * y[:, 0] * v).mean()

    examples = (torch.zeros_like(signs), signs)
    surface = LossSurface(lambda w, x: w.expand(len(x), 2), loss, (examples,))

    def scores(w: Tensor) -> dict[str, float]:
        return {
            "train_loss": float(surface.value(w)),
            "sharpness_along_v": rise * float(w[0]),
            "v": float(w[1]),
        }

    return Problem(
        w0=torch.tensor(start, dtype=torch.float64),
        examples=examples,
        surface=surface,
        scores=scores,
        at=lambda w: surface,
        better={"train_loss": "lower", "sharpness_along_v": "neither", "v": "neither"},
        layout=layout(u=(1,), v=(1,)),
    )
