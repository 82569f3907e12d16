"""Label noise for classes, drawn again at every step: Damian, Ma & Lee 2021, arXiv:2106.06530, section 4."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


@dataclass(frozen=True)
class LabelFlips:
    """The loss of labels of which each is that of another class with `probability`, all other classes alike:
    the target y [C] of a flipped example has the entries of its class and of the drawn class exchanged.

    Refuses a probability outside [0, 1], and targets that are not one number for each of two classes or more,
    such as the tokens of a text.
    """

    probability: float

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise Refusal(f"probability={self.probability}: a probability is at least 0 and at most 1")

    def __call__(self, surface: LossSurface, w: Tensor, rng: Stream) -> LossSurface:
        """The loss of the flipped labels on the surface's examples."""
        n = surface.examples
        flipped = torch.rand(n, generator=rng, dtype=torch.float64) < self.probability
        where = torch.rand(n, generator=rng, dtype=torch.float64)
        batches, used = [], 0
        for x, y in surface.batches:
            rows = slice(used, used + len(y))
            batches.append((x, _flipped(y, flipped[rows], where[rows])))
            used += len(y)
        return surface.on(batches)

    def flow_strength(self, batch_size: float) -> None:
        """None: the covariance of the gradients is not that of label noise of one variance for all."""


def _flipped(y: Tensor, chosen: Tensor, where: Tensor) -> Tensor:
    """The targets [n, C] with the classes of the `chosen` [n] examples exchanged for others, `where` [n] in
    [0, 1) among them."""
    if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim != 2 or y.shape[1] < 2:
        shape = list(getattr(y, "shape", []))
        raise Refusal(
            f"objective=label_flips: takes targets [n, C] of two classes or more, and these are {shape}; use "
            f"data=cifar10, digits or another set of classes"
        )
    n, C = y.shape
    old = y.argmax(1)
    ahead = 1 + (where * (C - 1)).long().clamp_max(C - 2).to(old)  # 1 to C - 1 classes further on
    rows = torch.arange(n, device=y.device)
    new = torch.where(chosen.to(y.device), (old + ahead) % C, old)
    out = y.clone()
    out[rows, old], out[rows, new] = y[rows, new], y[rows, old]
    return out
