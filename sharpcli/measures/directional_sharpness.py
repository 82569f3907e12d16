"""The curvature of the loss along one direction by values of the loss alone, for networks whose gradient's
graph does not fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import NotFinite, Refusal
from sharpcli.measures import Estimates, Point, update

# |h u| of the first difference, as a share of |w|, and how often another length is tried: the errors of
# rounding and of higher derivatives cross at a length that two differences tell.
Direction = Literal["gradient", "update", "random", "file"]
FIRST_LENGTH = {torch.float64: 1e-3, torch.float32: 2e-2}
MOST_LENGTHS = 5
SUM_ROUNDING = 4.0  # roundings of a loss, in units of its dtype's: of the sums of a forward pass


def directional_sharpness(at: Point, *, direction: Direction, file: Path | None) -> Estimates:
    """u.Hu for a direction u, and u.Hu / |u|^2, by (L(w + h u) - 2 L(w) + L(w - h u)) / h^2: two forward
    passes for a length h, and no graph.

    `direction` is `gradient` (u = grad L), `update` (u = what the optimizer would subtract from w, divided by
    lr), `random` (N(0, 1) [D] from the measure's generator) or `file`: tensors named as the parameters, as
    `sharp measure --vectors` writes them (of several vectors lambda_1's). Two to six lengths are tried, and
    the one of least error is given. Refuses a file whose tensors are not the parameters'.

    Columns:
        directional_curvature [loss, error _error]: u.Hu; error: of rounding, and of the fourth derivative by
            the differences of two lengths
        directional_sharpness [loss/weight^2, error _error]: u.Hu / |u|^2, between lambda_min and lambda_1
    """
    u, gradients = _direction(at, direction, file)
    norm = float(u.double().norm())
    if not norm > 0:
        return Estimates({"directional_curvature": 0.0, "directional_sharpness": None}, gradients=gradients)
    value, error, passes = along(at, u / norm)
    return Estimates(
        {
            "directional_curvature": value * norm**2,
            "directional_curvature_error": error * norm**2,
            "directional_sharpness": value,
            "directional_sharpness_error": error,
        },
        gradients=gradients + passes / 3,
    )


def along(at: Point, u: Tensor) -> tuple[float, float, int]:
    """u.Hu for a unit vector u, its error, and the forward passes that were taken.

    The difference d(h) has an error of rounding, r(h) ~ 1/h^2, and one of the fourth derivative, K h^2, where
    d(2h) - d(h) = 3 K h^2. The length is doubled until that difference is above the rounding, and then set to
    where both errors are equal.
    """
    middle = _loss(at, at.w)
    eps = SUM_ROUNDING * torch.finfo(at.w.dtype).eps
    values: dict[float, float] = {}
    rounding: dict[float, float] = {}

    def difference(h: float) -> float:
        plus, minus = _loss(at, at.w + h * u), _loss(at, at.w - h * u)
        rounding[h] = eps * (abs(plus) + 2 * abs(middle) + abs(minus)) / h**2
        values[h] = (plus - 2 * middle + minus) / h**2
        return values[h]

    h = FIRST_LENGTH.get(at.w.dtype, 2e-2) * max(float(at.w.double().norm()), 1e-3)
    change = abs(difference(2 * h) - difference(h))
    while change <= 2 * rounding[h] and len(values) < MOST_LENGTHS:
        h *= 2
        change = abs(difference(2 * h) - values[h])
    quartic = max(change, rounding[h]) / (3 * h**2)
    best = max((rounding[h] * h**2 / quartic) ** 0.25, h / 16)
    if best < h / 1.5:
        difference(best)
    errors = {length: rounding[length] + 2 * quartic * length**2 for length in values}
    h = min(errors, key=lambda length: errors[length])
    return values[h], errors[h], 1 + 2 * len(values)


def _loss(at: Point, w: Tensor) -> float:
    value = float(at.surface.value(w))
    if not math.isfinite(value):
        raise NotFinite("the loss is not finite beside these weights")
    return value


def _direction(at: Point, direction: Direction, file: Path | None) -> tuple[Tensor, float]:
    """The direction, and the gradients that it cost."""
    if file is not None and direction != "file":
        raise Refusal(
            f"measure.directional_sharpness.direction={direction}: a file is given; take direction=file"
        )
    if direction == "gradient":
        return at.surface.grad(at.w), 1
    if direction == "update":
        d, _, gradients = update(at)
        return d, gradients
    if direction == "random":
        return at.normal(), 0
    if file is None:
        raise Refusal("measure.directional_sharpness.file is missing: direction=file takes one; give file=")
    return _from_file(at, file), 0


def _from_file(at: Point, file: Path) -> Tensor:
    """The direction of a file: tensors named as the parameters, or after the name of a vector and a slash."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        named = load_file(file)
    except (OSError, SafetensorError) as problem:
        raise Refusal(
            f"{file}: not readable as safetensors ({problem}); sharp measure --vectors writes one"
        ) from None
    layout = at.problem.layout or (("w", at.w.shape),)
    prefixes = sorted({name.partition("/")[0] for name in named})
    first = "lambda_1" if "lambda_1" in prefixes else next(iter(prefixes), "")
    tensors = []
    for name, shape in layout:
        t = named.get(name, named.get(f"{first}/{name}"))
        if t is None or t.shape != shape:
            raise Refusal(
                f"{file}: has no {name} of the shape {list(shape)}; give tensors named and shaped as the "
                f"parameters"
            )
        tensors.append(t.flatten())
    return torch.cat(tensors).to(at.w)
