"""Mixup: convex combinations of examples and of their targets, Zhang et al. 2018, arXiv:1710.09412."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def mixup(surface: LossSurface, w: Tensor, rng: Stream, *, alpha: float) -> LossSurface:
    """The loss of (c x_i + (1 - c) x_j, c y_i + (1 - c) y_j), j a random permutation of a step's examples and
    c ~ Beta(alpha, alpha) one number for the step, as in the authors' code; alpha = 0 leaves the examples as
    they are.

    Refuses alpha < 0, and inputs or targets that are not real numbers, such as the tokens of a text.
    """
    x, y = surface.batches[0]
    if alpha < 0 or not all(isinstance(t, Tensor) and t.is_floating_point() for t in (x, y)):
        raise Refusal(
            f"objective=mixup takes alpha >= 0 and examples with real inputs and targets; got alpha={alpha}"
        )
    if alpha == 0:
        return surface
    gammas = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=rng)
    total = float(gammas.sum())
    c = float(gammas[0]) / total if total > 0 else float(rng.choices(1, 2)[0])  # Beta(0, 0): one of the ends

    inputs, targets = surface.joined
    other = torch.randperm(len(targets), generator=rng).to(targets.device)
    inputs, targets = (c * rows + (1 - c) * rows[other] for rows in (inputs, targets))
    sizes = [len(y) for _, y in surface.batches]
    return surface.on(zip(inputs.split(sizes), targets.split(sizes), strict=True))
