"""An l2 penalty on the weights."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.surface import LossSurface


def weight_decay(surface: LossSurface, w: Tensor, rng: Generator, *, strength: float) -> LossSurface:
    """L(w) + strength / 2 |w|^2, whose gradient is that of `torch.optim.SGD(weight_decay=strength)`.

    Refuses strength < 0.
    """
    if strength < 0:
        raise Refusal(f"strength={strength}: weight decay is at least 0")
    inner = surface.penalty

    def penalty(w: Tensor) -> Tensor:
        own = 0.5 * strength * w.square().sum()
        return own if inner is None else inner(w) + own

    return replace(surface, penalty=penalty)
