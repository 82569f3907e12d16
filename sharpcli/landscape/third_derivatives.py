"""Whether the third derivatives of a loss are those of its Hessian products: PyTorch's are wrong for some
layers, as for batch norm in torch 2.6, and nothing else would show it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from sharpcli.errors import NotFinite, Refusal
from sharpcli.landscape.batches import head
from sharpcli.landscape.second_derivatives import EXAMPLES, doubled

if TYPE_CHECKING:
    from sharpcli.landscape.surface import LossSurface

DIFFERENCE = 1e-2  # relative difference from a central difference of Hessian products that counts as an error
LENGTHS = (1e-6, 1e-7, 1e-5)  # of the central difference, relative to |w|, in float64
# Directions, of which one must agree: kinks (ReLU) disturb the difference along some, errors along all.
TRIES = 3
FLOOR_EPS = 1e3  # machine epsilons of v.Hv below which its derivative is only rounding


def check_third_derivatives(surface: LossSurface, w: Float[Tensor, " D"]) -> None:
    """Compares grad (v.Hv) at w, for random unit v, with central differences of Hessian products, on the
    first `EXAMPLES` examples in float64: a third derivative and at least two products.

    Refuses a third derivative that is near no difference. Where the model or the loss cannot be evaluated in
    float64 nothing is known, and nothing refused.
    """
    precise = doubled(replace(surface.single(head(surface.batches[0], EXAMPLES)), compiled=None))
    at, rng = w.double(), Generator().manual_seed(0)
    pairs = []
    try:
        for _ in range(TRIES):
            slope, difference, agrees = _compared(precise, at, rng)
            if agrees:
                return
            pairs.append((slope, difference))
    except (NotFinite, RuntimeError, TypeError):
        return
    slope, difference = min(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    raise Refusal(
        f"the third derivatives of this model are wrong: {slope:.6g} along a direction in which the Hessian "
        f"products change by {difference:.6g}; a layer's third derivative is wrong in torch "
        f"{torch.__version__}: take another layer, or another version"
    )


def _compared(surface: LossSurface, w: Tensor, rng: Generator) -> tuple[float, float, bool]:
    """The derivative of v.Hv along u by the third derivative, by the nearest difference of products, and
    whether they agree. u is near the third derivative itself: along independent directions both would be lost
    in rounding."""
    v, noise = (torch.randn(len(w), generator=rng, dtype=torch.float64).to(w) for _ in range(2))
    v = v / v.norm()
    third = surface.curvature_grad(w, v[None])
    u = third / third.norm().clamp_min(torch.finfo(w.dtype).tiny) + noise / noise.norm()
    slope, length, best = float(third @ u), max(float(w.norm()), 1.0), math.inf
    for share in LENGTHS:
        h = share * length
        ends = [float(surface.hvp(w + side * h * u, v) @ v) for side in (1, -1)]
        difference = (ends[0] - ends[1]) / (2 * h)
        floor = FLOOR_EPS * torch.finfo(w.dtype).eps * max(map(abs, ends)) / h
        if abs(difference - slope) < abs(best - slope):
            best = difference
        if abs(difference - slope) <= DIFFERENCE * max(abs(slope), abs(difference)) + floor:
            return slope, difference, True
    return slope, best, False
