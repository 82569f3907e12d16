"""Gradients of training steps in half precision: the forward and the backward pass in bfloat16 or float16,
for weights that stay in float32."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.approximate import ApproximateSurface
from sharpcli.landscape.batches import mapped
from sharpcli.landscape.surface import LossSurface

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What the loss is multiplied by where it is differentiated, and the gradient divided by: float16 has no
# numbers between 0 and 6e-8, and none above 65,504. The first with a finite gradient counts.
SCALES = {"bf16": (1.0,), "fp16": (2.0**15, 2.0**10, 2.0**5, 1.0)}


@dataclass(frozen=True)
class HalfPrecision(ApproximateSurface):
    """The loss whose outputs and gradient are computed by torch.autocast in the `half` precision, bf16 or
    fp16; outputs, loss, penalty, weights and gradient are in the precision of w. The gradient in fp16 is that
    of the loss times one of `SCALES`, over it: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.

    Second derivatives are refused: a Hessian product of 8 or 11 bits is no measurement. `exact` is the loss
    in the precision of w, by `predict_exactly`.
    """

    half: str = "bf16"

    @classmethod
    def of(cls, surface: LossSurface, half: str) -> HalfPrecision:
        """The surface in half precision."""
        of_surface = {field.name: getattr(surface, field.name) for field in fields(LossSurface)}
        inner = surface.predict

        def predict(w: Tensor, x: Any) -> Any:
            # without the cache: weights are views of w, each used once
            with torch.autocast(w.device.type, dtype=HALVES[half], cache_enabled=False):
                outputs = inner(w, x)
            return mapped(lambda t: t.to(w.dtype) if t.is_floating_point() else t, outputs)

        of_surface |= {"predict": predict, "known": None, "compiled": None}
        return cls(**of_surface, half=half, predict_exactly=surface.exact.predict)

    def _derivative(self, term: Tensor, w: Tensor) -> Tensor:
        scales = SCALES[self.half]
        for scale in scales:
            is_last = scale == scales[-1]
            gradient = torch.autograd.grad(term * scale, w, retain_graph=not is_last)[0] / scale
            if is_last or bool(gradient.isfinite().all()):
                break
        return gradient

    def linearize(self, w: Tensor, graph_bytes: int | None = None) -> NoReturn:
        """Refused."""
        self._refuse()

    def gradient_graph(self, w: Tensor) -> NoReturn:
        """Refused."""
        self._refuse()

    def curvature_grad(self, w: Tensor, V: Tensor) -> NoReturn:
        """Refused."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise Refusal(
            f"precision={self.half}: this optimizer or objective needs second derivatives, for which half "
            f"precision is too coarse; leave precision out"
        )
