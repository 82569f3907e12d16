"""Lines and planes through weight space on which a loss is drawn: their directions and coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sharpcli.landscape.surface import LossSurface

SMALL = 20_000  # weights of a loss of which many points are evaluated at once


def filter_normalized(v: Float[Tensor, " D"], w: Float[Tensor, " D"], shapes: Sequence[torch.Size]) -> Tensor:
    """v with each filter (row of a weight tensor, the incoming weights of a unit) scaled to the norm of w's
    own filter, and 0 in vectors (biases, scales of norms), after Li et al. 2018, arXiv:1712.09913, section 4:
    a step of 1 changes every filter by its own size, so that pictures of nets of different scales can be
    compared. A w of vectors alone is scaled as a whole."""
    if not any(len(shape) > 1 for shape in shapes):
        return v * (w.norm() / v.norm())
    out = []
    sizes = [shape.numel() for shape in shapes]
    for part, weights, shape in zip(v.split(sizes), w.split(sizes), shapes, strict=True):
        if len(shape) < 2:
            out.append(torch.zeros_like(part))
            continue
        rows, of_w = part.view(shape[0], -1), weights.view(shape[0], -1)
        out.append((rows * (of_w.norm(dim=1) / rows.norm(dim=1)).unsqueeze(1)).flatten())
    return torch.cat(out)


def principal_plane(points: Float[Tensor, "T D"], origin: Float[Tensor, " D"]) -> tuple[Tensor, Tensor]:
    """The two orthonormal principal directions [2, D] of w_t - origin, uncentred as in Li et al. 2018,
    section 7, and the share [2] of their squared length that each explains. T x T, not D x D, is solved."""
    moves = points - origin
    values, vectors = torch.linalg.eigh((moves @ moves.T).double())
    order = values.argsort(descending=True)[:2]
    directions = vectors[:, order].T.to(moves) @ moves
    shares = values[order].clamp(min=0) / values.clamp(min=0).sum()
    return directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-30), shares


def plane_through(a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "2 D"]:
    """Two orthonormal directions of the plane through three points, the first from a to b."""
    u = (b - a) / (b - a).norm()
    v = (c - a) - ((c - a) @ u) * u
    return torch.stack([u, v / v.norm().clamp(min=1e-30)])


def coordinates(
    points: Float[Tensor, "T D"], origin: Float[Tensor, " D"], directions: Float[Tensor, "m D"]
) -> Float[Tensor, "T m"]:
    """Where the points lie in the plane origin + sum_i c_i d_i: least squares, for any directions that are
    independent."""
    gram = directions @ directions.T
    return torch.linalg.solve(gram.double(), ((points - origin) @ directions.T).double().T).T.to(points)


def values(surface: LossSurface, points: Float[Tensor, "m D"]) -> list[float]:
    """L at each of many points. A loss of few weights is evaluated at many of them at once, if its functions
    can be, and the same to rounding."""
    if len(points[0]) > SMALL or len(points) == 1:
        return [float(surface.value(w)) for w in points]
    first = float(surface.value(points[0]))
    try:
        with torch.no_grad():
            many = torch.func.vmap(surface.total)(points)
    except (RuntimeError, ValueError):  # a function that looks at its values, or writes into a buffer
        return [float(surface.value(w)) for w in points]
    rounding = 100 * torch.finfo(points.dtype).eps * max(abs(first), 1.0)
    if not abs(float(many[0]) - first) <= rounding:
        return [float(surface.value(w)) for w in points]
    return [float(value) for value in many]
