"""An l2 penalty on the weights."""

from __future__ import annotations

from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface


def weight_decay(surface: LossSurface, w: Tensor, rng: Generator, *, strength: float) -> LossSurface:
    """L(w) + strength / 2 |w|^2, whose gradient is that of `torch.optim.SGD(weight_decay=strength)`.

    Refuses strength < 0.
    """
    if strength < 0:
        raise Refusal(f"strength={strength}: weight decay is at least 0")
    return surface.plus(lambda w: 0.5 * strength * w.square().sum())
