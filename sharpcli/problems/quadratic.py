"""A quadratic with given eigenvalues, for which everything is known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.problems.problem import Problem


def quadratic(*, eigenvalues: list[float], start: list[float]) -> Problem:
    """L(w) = 1/2 sum_i lambda_i w_i^2 in float64 from w = `start`; GD multiplies w_i by 1 - lr lambda_i.

    `distance` is |w|. Refuses lists that are empty or of unequal length.
    """
    if not eigenvalues or len(eigenvalues) != len(start):
        raise Refusal(
            f"problem.eigenvalues has {len(eigenvalues)} entries and problem.start {len(start)}; give both "
            f"the same, at least 1"
        )
    curvature = torch.tensor(eigenvalues, dtype=torch.float64)
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    surface = LossSurface(
        predict=lambda w, x: w[None],
        loss=lambda w, y: 0.5 * (curvature.to(w) * w.square()).sum(),
        batches=((nothing, nothing),),
    )

    def scores(w: Tensor) -> dict[str, float]:
        return {"train_loss": float(surface.value(w)), "distance": float(w.norm())}

    return Problem(
        w0=torch.tensor(start, dtype=torch.float64),
        examples=(nothing, nothing),
        surface=surface,
        scores=scores,
        at=lambda w: surface,
        better={"train_loss": "lower", "distance": "lower"},
    )
