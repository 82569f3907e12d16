"""Label noise, drawn again at every step; Blanc et al. 2020, arXiv:1904.09080, and Li, Wang & Arora 2022,
arXiv:2110.06914."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.objectives import Noise
from sharpcli.rng import Stream
from sharpcli.rng.laws import LAWS, VARIANCES, draws, number


@dataclass(frozen=True)
class LabelNoise:
    """The loss of the labels y + delta xi. The `distribution` of xi is `signs` (+-1, variance 1), `uniform`
    (in [-1, 1], variance 1/3), `normal` (variance 1) or `student` (heavy-tailed, variance 1), as `rng.laws`
    states them; xi is independent for every example and output, or with `shared` the same for all of a batch.

    The speed of the limiting flow is proportional to the variance. Refuses delta < 0 and an unknown
    distribution.
    """

    states: ClassVar[dict[str, str]] = {"label_noise": "delta"}
    delta: float
    distribution: str
    shared: bool

    def __post_init__(self) -> None:
        if self.delta < 0:
            raise Refusal(f"delta={self.delta}: label noise has a size of at least 0")
        if self.distribution not in LAWS:
            raise Refusal(f"distribution={self.distribution}: label noise is one of {', '.join(LAWS)}")

    def __call__(self, surface: LossSurface, w: Tensor, rng: Stream) -> LossSurface:
        """The loss of the noisy labels on the surface's examples."""
        count = 1 if self.shared else sum(y.numel() for _, y in surface.batches)
        xi = torch.from_numpy(draws(self.distribution, rng, count))
        batches, used = [], 0
        for x, y in surface.batches:
            xi_of_batch = xi if self.shared else xi[used : used + y.numel()].view(y.shape)
            batches.append((x, y + self.delta * xi_of_batch.to(y)))
            used += y.numel()
        return surface.on(batches)

    def flow_strength(self, batch_size: float) -> float | None:
        """Var(xi) / B, the speed of the limiting flow over that of noise of variance 1 on single examples:
        the gradient of a batch of B has 1/B of the covariance. None of noise that a batch shares, whose
        covariance is not that of H, and whose limiting flow does not lower Tr H."""
        shares = self.shared and batch_size > 1
        return None if shares else VARIANCES[self.distribution] / batch_size

    def compiled(self) -> Noise:
        """The same noise for compiled steps."""
        return Noise(delta=self.delta, law=number(self.distribution), shared=self.shared)
