"""Two parameters and a curve of minima, u v = 1, along which the sharpness varies."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.problem import Problem
from sharpcli.surface import LossSurface


def valley(*, start: list[float]) -> Problem:
    """L(u, v) = 1/2 (u v - 1)^2 in float64; at a minimum lambda_1 = Tr H = u^2 + v^2, least (2) at u = v = +-1.

    The scores hold `u` and `v`. Refuses a start that is not two numbers.
    """
    if len(start) != 2:
        raise Refusal(f"problem.start={list(start)}: the valley has two parameters; give [u, v]")
    nothing = torch.zeros(1, 1, dtype=torch.float64)
    surface = LossSurface(
        predict=lambda w, x: w.prod()[None, None], loss=lambda f, y: 0.5 * (f - 1).square().sum(), batches=((nothing, nothing),)
    )

    def scores(w: Tensor) -> dict[str, float]:
        return {"train_loss": float(surface.value(w)), "u": float(w[0]), "v": float(w[1])}

    return Problem(torch.tensor(start, dtype=torch.float64), (nothing, nothing), surface, scores, lambda w: surface)
