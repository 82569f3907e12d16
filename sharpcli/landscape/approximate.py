"""Losses that training differentiates by other means than measurements do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from sharpcli.landscape.surface import LossSurface

Predict = Callable[[Tensor, Any], Any]


@dataclass(frozen=True)
class ApproximateSurface(LossSurface):
    """A loss whose `predict` is faster and not exact, beside the `predict_exactly` that it stands for."""

    predict_exactly: Predict | None = None

    @property
    def exact(self) -> LossSurface:
        """The same loss by `predict_exactly`."""
        of_surface = {field.name: getattr(self, field.name) for field in fields(LossSurface)}
        return LossSurface(**of_surface | {"predict": self.predict_exactly})

    def through(self, embed: Callable[[Tensor], Tensor]) -> ApproximateSurface:
        """The same loss as a function of u, with w = embed(u), exactly too."""
        embedded: Any = super().through(embed)
        exactly = embedded.predict_exactly
        return replace(embedded, predict_exactly=lambda u, x: exactly(embed(u), x))
