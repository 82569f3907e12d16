"""The trace of the Hessian as an explicit regularizer; Damian, Ma & Lee 2021, arXiv:2106.06530, and Wei &
Schwab 2019."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, vjp

from sharpcli.errors import Refusal
from sharpcli.landscape.layer_norm import LayerNorms
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def trace_penalty(
    surface: LossSurface, w: Tensor, rng: Stream, *, strength: float, probes: int
) -> LossSurface:
    """L(w) + strength (1/m) sum_i v_i.H(w) v_i, where the m = `probes` vectors v_i [D] have random signs as
    entries and are drawn once a step: an unbiased estimate of L + strength Tr H, whose gradient takes a third
    derivative of L. Refuses strength < 0 and probes < 1."""
    if strength < 0 or probes < 1:
        raise Refusal(f"strength={strength} probes={probes}: a strength of at least 0, and at least 1 probe")
    if strength == 0:
        return surface
    V = torch.from_numpy(rng.signs(probes * len(w))).to(w).view(probes, -1)
    x, y = surface.as_one
    exact = surface.exact

    def loss(at: Tensor) -> Tensor:
        return exact.loss(exact.predict(at, x), y)

    def penalty(at: Tensor) -> Tensor:
        with LayerNorms():
            hessian_product = vjp(grad(loss), at)[1]
        trace = torch.stack([v @ hessian_product(v)[0] for v in V]).mean()
        return strength * trace

    return surface.plus(penalty)
