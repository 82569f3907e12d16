"""Whether the third derivatives of a loss are those of its Hessian products, and the gradient of a penalty
that of its value: PyTorch's are wrong for some layers, as for batch norm, and nothing else would show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from sharpcli.errors import NotFinite, Refusal
from sharpcli.landscape.batches import head
from sharpcli.landscape.differences import disagreement
from sharpcli.landscape.second_derivatives import EXAMPLES, doubled

if TYPE_CHECKING:
    from sharpcli.landscape.surface import LossSurface, Penalty


def check_third_derivatives(surface: LossSurface, w: Float[Tensor, " D"]) -> None:
    """Compares grad (v.Hv) at w, for random unit v, with central differences of Hessian products, on the
    first `EXAMPLES` examples in float64: a third derivative and at least two products.

    Refuses a third derivative that is near no difference. Where the model or the loss cannot be evaluated in
    float64 nothing is known, and nothing refused.
    """
    precise = doubled(replace(surface.single(head(surface.batches[0], EXAMPLES)), compiled=None))
    at, rng = w.double(), Generator().manual_seed(0)

    def curvature(attempt: int) -> tuple[Callable[[Tensor], float], Tensor]:
        v = torch.randn(len(at), generator=rng, dtype=torch.float64).to(at)
        v = v / v.norm()
        return lambda point: float(precise.hvp(point, v) @ v), precise.curvature_grad(at, v[None])

    try:
        wrong = disagreement(curvature, at, rng)
    except (NotFinite, RuntimeError, TypeError):
        return
    if wrong is not None:
        raise Refusal(
            f"the third derivatives of this model are wrong: {wrong[0]:.6g} along a direction in which the "
            f"Hessian products change by {wrong[1]:.6g}; a layer's third derivative is wrong in torch "
            f"{torch.__version__}: take another layer, or another version"
        )


def check_penalty(penalty: Penalty, w: Float[Tensor, " D"], name: str) -> None:
    """Compares the gradient of what the objective `name` adds to the loss with central differences of it, at
    w in float64. An objective that adds a gradient or a Hessian product descends on a derivative of second or
    third order, which is wrong for some layers.

    Refuses a gradient that is near no difference. Where the penalty cannot be evaluated in float64 nothing is
    known, and nothing refused.
    """

    def added(attempt: int) -> tuple[Callable[[Tensor], float], Tensor]:
        leaf = w.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(penalty(leaf), leaf)
        return lambda point: float(penalty(point).detach()), gradient

    try:
        wrong = disagreement(added, w, Generator().manual_seed(0))
    except (NotFinite, RuntimeError, TypeError):
        return
    if wrong is not None:
        raise Refusal(
            f"objective.{name}: the gradient of what it adds to the loss is wrong: {wrong[0]:.6g} along a "
            f"direction in which that changes by {wrong[1]:.6g}; a layer's derivative is wrong in torch "
            f"{torch.__version__}: take another layer or version, or leave out objective={name}"
        )
