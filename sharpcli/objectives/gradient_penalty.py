"""The norm of the gradient as an explicit regularizer; Barrett & Dherin 2021, arXiv:2009.11162, and Zhao,
Zhang & Hu 2022, arXiv:2202.03599."""

from __future__ import annotations

from typing import Literal

from torch import Generator, Tensor
from torch.func import grad

from sharpcli.errors import Refusal
from sharpcli.landscape.layer_norm import LayerNorms
from sharpcli.landscape.surface import LossSurface


def gradient_penalty(
    surface: LossSurface, w: Tensor, rng: Generator, *, strength: float, power: Literal[1, 2]
) -> LossSurface:
    """L(w) + strength |grad L(w)|^power, of the step's examples: its gradient is g + strength H g / |g| for
    power 1 and g + 2 strength H g for power 2. To first order in rho SAM descends on power 1 with strength
    rho, and gradient descent follows the flow of power 2 with strength lr / 4.

    Under batch norm |grad L| is that of the step's examples normalized together, also where `chunk` divides
    them. Refuses strength < 0 and another power.
    """
    if strength < 0 or power not in (1, 2):
        raise Refusal(f"strength={strength} power={power}: a strength of at least 0, and a power of 1 or 2")
    if strength == 0:
        return surface
    x, y = surface.joined
    exact = surface.exact

    def loss(at: Tensor) -> Tensor:
        return exact.loss(exact.predict(at, x), y)

    def penalty(at: Tensor) -> Tensor:
        with LayerNorms():
            squared = grad(loss)(at).square().sum()
        return strength * (squared if power == 2 else (squared + 1e-24).sqrt())

    return surface.plus(penalty)
