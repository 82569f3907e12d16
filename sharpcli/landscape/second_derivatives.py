"""Whether the Hessian products of a loss are second derivatives: PyTorch's double backward of some layers is
wrong, and nothing else would show it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from sharpcli.errors import NotFinite
from sharpcli.landscape.batches import head, mapped
from sharpcli.landscape.surface import LossSurface

EXAMPLES = 16  # on which the products are compared: a layer's derivative is right or wrong on any
# Relative differences that count as an error: of u.Hv and v.Hu, which only rounding may part; and of u.Hv and
# a central difference of the gradient. Of 130 layers and functions of PyTorch 2.14 those that are right
# stayed below a tenth of each.
SYMMETRY = {torch.float32: 1e-3, torch.float64: 1e-8}
DIFFERENCE = 1e-2
# In float32 alone the difference must be so long that kinks (ReLU) part it from u.Hv, by up to 0.2.
DIFFERENCE_32 = 0.4
# Lengths of the central difference, relative to |w|: the first that agrees counts. A longer one truncates
# more and meets more kinks, a shorter one rounds more. A ResNet-20 with ReLU and batch norm has kinks within
# 1e-7 |w|.
LENGTHS = {torch.float32: (1e-3, 1e-2, 1e-4), torch.float64: (1e-6, 1e-7, 1e-5, 1e-8, 1e-9)}
# In float64 a right derivative of a function without kinks agrees far better than that, and differences of
# two lengths that agree with one another and not with u.Hv show a wrong one: kinks part them by far more.
# u.Hv is then taken in float64 too: in float32 rounding alone changed it by 2e-3 in a sharp ResNet-20 without
# shortcuts.
SMOOTH, CONSISTENT = 1e-4, 1e-2
TRIES = 3
FLOOR_EPS = 1e3  # machine epsilons of the gradient and of the loss below which a product is only rounding


@dataclass(frozen=True)
class Agreement:
    """Three numbers that are equal for a Hessian H: `uHv` = u.(Hv), `vHu` = v.(Hu), and `difference` =
    u.(g(w + h v) - g(w - h v)) / 2h, g the gradient. `symmetric` says that the first two agree, `derivative`
    that the first and the last do, `certain` that no kinks have parted them."""

    uHv: float
    vHu: float
    difference: float
    symmetric: bool
    derivative: bool
    certain: bool


def agreement(surface: LossSurface, w: Float[Tensor, " D"], rng: Generator) -> Agreement | None:
    """Compares products of the surface's Hessian at w, on its first `EXAMPLES` examples: two products and two
    gradients, a few more where kinks of the loss disturb the difference. None where the product is 0 up to
    rounding, or the dtype has no stated accuracy.

    Kinks disturb the difference along some directions, a wrong derivative along all: of `TRIES` directions
    the first that agrees counts.
    """
    if w.dtype not in SYMMETRY:
        return None
    # not by compiled products: compiling for so few examples would cost more than all that follows
    surface = replace(surface.single(head(surface.batches[0], EXAMPLES)), compiled=None)
    compared = None
    for _ in range(TRIES):
        try:
            compared = _compared(surface, w, rng)
        except NotFinite:  # on these examples alone: nothing is known of the derivative
            return None
        if compared is None or not compared.symmetric or compared.derivative or compared.certain:
            break
    return compared


def _compared(surface: LossSurface, w: Tensor, rng: Generator) -> Agreement | None:
    """The numbers for a random unit v and u = Hv / |Hv| + noise.

    u is near Hv, since for independent directions u.Hv would be sqrt(D) times smaller than |Hv|, and lost in
    rounding.
    """
    products, eps = surface.linearize(w), torch.finfo(w.dtype).eps
    v, noise = (torch.randn(len(w), generator=rng, dtype=torch.float64).to(w) for _ in range(2))
    v = v / v.norm()
    Hv = products.hvp(v)
    u = Hv / Hv.norm().clamp_min(torch.finfo(w.dtype).tiny) + noise / noise.norm()
    uHv, vHu = _dot(u, Hv), _dot(v, products.hvp(u))
    length, g = max(float(w.norm()), 1.0), float(products.grad.double().norm())
    floor = FLOOR_EPS * eps * (g / length + abs(float(surface.value(w))) / length**2)
    scale = max(abs(uHv), abs(vHu))
    if scale <= floor:
        return None
    precise, dtype = _precise(surface, w)
    gradient, exactly = precise.grad, uHv
    tolerance = DIFFERENCE if dtype == torch.float64 else DIFFERENCE_32
    best, before = math.inf, math.nan
    derivative = certain = False
    for share in LENGTHS[dtype]:
        h = share * length
        difference = _dot(u, gradient(w.to(dtype) + h * v) - gradient(w.to(dtype) - h * v)) / (2 * h)
        if not math.isfinite(difference):
            continue
        if abs(difference - uHv) < abs(best - uHv):
            best = difference
        off, rounding = abs(difference - uHv), floor + torch.finfo(dtype).eps * g / h
        derivative = derivative or off <= tolerance * scale + rounding
        if dtype != torch.float64 or off <= SMOOTH * scale + rounding:
            certain = derivative
        else:
            if exactly == uHv and w.dtype != torch.float64:
                exactly = _dot(u, precise.linearize(w.double()).hvp(v.double()))
            off_exactly = abs(difference - exactly)
            if off_exactly <= SMOOTH * scale + rounding:
                certain = derivative
            elif abs(difference - before) <= CONSISTENT * off_exactly:
                best, derivative, certain = difference, False, True
        if certain:
            break
        before = difference
    if not math.isfinite(best):
        return None
    symmetric = abs(uHv - vHu) <= SYMMETRY[w.dtype] * scale + floor
    return Agreement(uHv, vHu, best, symmetric, derivative, certain)


def _precise(surface: LossSurface, w: Tensor) -> tuple[LossSurface, torch.dtype]:
    """The surface in float64 where the model and the loss can be evaluated in it, else as it is in w's own
    dtype."""
    precise = doubled(surface)
    try:
        if precise.grad(w.double()).dtype == torch.float64:
            return precise, torch.float64
    except (RuntimeError, TypeError):  # a part that works in a single precision, or a device without float64
        pass
    return surface, w.dtype


def doubled(surface: LossSurface) -> LossSurface:
    """The surface over the same examples in float64, integers as they are."""

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    return surface.on([(mapped(double, x), mapped(double, y)) for x, y in surface.batches])


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())
