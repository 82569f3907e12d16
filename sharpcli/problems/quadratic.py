"""A quadratic with given eigenvalues, on which the path of every method is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.problems.problem import Problem


def quadratic(*, eigenvalues: list[float], start: list[float]) -> Problem:
    """L(w) = 1/2 sum_i lambda_i w_i^2 with the `eigenvalues` lambda_i, in float64, from w = `start`. A step
    of gradient descent multiplies w_i by 1 - lr lambda_i.

    The score `distance` is |w|. Refuses lists that are empty or of unequal length.
    """
    if not eigenvalues or len(eigenvalues) != len(start):
        raise Refusal(
            f"problem.eigenvalues has {len(eigenvalues)} entries and problem.start {len(start)}; give both "
            f"the same, at least 1"
        )
    curvature = torch.tensor(eigenvalues, dtype=torch.float64)
    no_input = torch.zeros(1, 1, dtype=torch.float64)  # the surface has one example, on which nothing depends
    surface = LossSurface(
        predict=lambda w, x: w[None],
        loss=lambda w, y: 0.5 * (curvature.to(w) * w.square()).sum(),
        batches=((no_input, no_input),),
    )

    def scores(w: Tensor) -> dict[str, float]:
        return {"train_loss": float(surface.value(w)), "distance": float(w.norm())}

    return Problem(
        w0=torch.tensor(start, dtype=torch.float64),
        examples=(no_input, no_input),
        surface=surface,
        scores=scores,
        at=lambda w: surface,
        better={"train_loss": "lower", "distance": "lower"},
    )
