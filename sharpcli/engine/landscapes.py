"""What a picture of the loss asks of an experiment: directions at a point, losses in their plane, and curves
to another point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharpcli.engine.experiment import Experiment
from sharpcli.engine.measuring import check_second_derivatives
from sharpcli.errors import Refusal
from sharpcli.landscape import paths, planes
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.paths import Curve
from sharpcli.landscape.permutations import matched
from sharpcli.landscape.surface import LossSurface
from sharpcli.landscape.symmetries import exchangeable
from sharpcli.problems.minibatches import Minibatches
from sharpcli.rng import generator

COMPARED = 64  # examples on which two networks are compared


def have_one_loss(one: Experiment, other: Experiment, w: Tensor) -> bool:
    """Whether two experiments have the same loss at w, on a few of their examples: where activation, loss or
    frozen parameters differ, weights of one say nothing in the other's network."""
    values = []
    for experiment in (one, other):
        x, y = experiment.problem.examples
        few = experiment.problem.surface.on([(x[:COMPARED], y[:COMPARED])])
        values.append(float(few.value(w)))
    return math.isclose(*values, rel_tol=1e-4, abs_tol=1e-9)


def chosen(
    experiment: Experiment,
    origin: Tensor,
    path: Sequence[tuple[int, Tensor]],
    directions: str,
    dimensions: int,
    seed: int,
) -> tuple[Tensor, list[str], list[float], dict[str, Any]]:
    """The directions [m, D], what their axes are called, how far they go (empty where the path says), and
    what else is known of them."""

    if directions == "random":
        shapes = [shape for _, shape in experiment.problem.layout] or [origin.shape]
        drawn = [
            torch.randn(len(origin), generator=generator(seed, "landscape", i), dtype=torch.float64)
            for i in range(dimensions)
        ]
        basis = torch.stack([planes.filter_normalized(v.to(origin), origin, shapes) for v in drawn])
        if not torch.isfinite(basis).all():
            raise Refusal("directions=random: a filter of these weights is 0; take directions=eigenvectors")
        said = [f"random direction {i + 1}, filters normalized" for i in range(dimensions)]
        return basis, said, [1.0] * dimensions, {}
    if directions == "eigenvectors":
        surface = experiment.surface_at(origin)
        if len(origin) < dimensions:
            raise Refusal(f"directions=eigenvectors: {len(origin)} weight; take dimensions=1")
        check_second_derivatives(surface, origin, experiment.seed, "landscape")
        curvature = Curvature(surface, origin, experiment.seed, 0, experiment.basis_bytes)
        ritz = curvature.eigenpairs("hessian", dimensions, 1e-3, 1000)
        found = ritz.values[:dimensions].tolist()
        spans = [(2 / max(abs(value), 1e-12)) ** 0.5 for value in found]
        said = [rf"along $v_{i + 1}$, $\lambda_{i + 1}$ = {value:.4g}" for i, value in enumerate(found)]
        return ritz.vectors[:dimensions], said, spans, {"eigenvalues": found}
    points = torch.stack([w for _, w in path])
    if directions == "trajectory":
        if len(points) < 3:
            raise Refusal(
                f"directions=trajectory: {len(points)} checkpoints span no plane; train with "
                f"checkpoint_every= for more"
            )
        basis, shares = planes.principal_plane(points, origin)
        said = [f"principal direction {i + 1} ({share:.0%})" for i, share in enumerate(shares.tolist())]
        return basis, said, [], {"shares": shares.tolist()}
    basis = planes.plane_through(*points)
    if float(basis[1].norm()) < 0.5:
        raise Refusal("directions=checkpoints: the three points lie on a line; take sharp plot connect")
    return basis, ["weights, from the first towards the second", "weights, towards the third"], [], {}


def losses_at(experiment: Experiment, origin: Tensor, basis: Tensor, at: np.ndarray) -> Iterator[float]:
    """L at each point of the plane, by the policy for batch norm there."""
    coordinates = torch.from_numpy(at).to(origin)
    surface = experiment.surface_at(origin)
    if len(origin) <= planes.SMALL and experiment.surface_at(origin + basis[0]) is surface:
        yield from planes.values(surface, origin + coordinates @ basis)
        return
    for c in coordinates:
        w = origin + c @ basis
        yield float(experiment.surface_at(w).value(w))


def matched_to(
    experiment: Experiment, w: Tensor, to: Tensor, tell: Callable[[str], Any] = lambda said: None
) -> Tensor:
    """w with its hidden units in the order nearest to another's; `tell` is told of operations whose units
    stay in their order. Refuses a problem that is no network, a network in which no units are seen to be
    exchangeable, and one whose loss their new order changes."""
    problem = experiment.problem
    if not problem.layout:
        raise Refusal("match=true: this problem has no hidden units; take match=false")
    sets, unknown = exchangeable(problem.surface.predict, w, problem.examples[0][:2], problem.layout)
    kept = f"units at the operations {', '.join(unknown)} of PyTorch stay in their order" if unknown else ""
    if not sets:
        raise Refusal(
            f"match=true: no two units of this network are seen to be exchangeable; "
            f"{f'{kept}; ' if kept else ''}take match=false"
        )
    if kept:
        tell(f"match=true: {kept}")
    out = matched(w, to, problem.layout, sets)
    before, after = (float(experiment.surface_at(v).value(v)) for v in (w, out))
    if not abs(after - before) <= 1e-4 * max(abs(before), 1e-2):
        raise Refusal(
            f"match=true: the loss is {before:.6g}, and {after:.6g} with the units in another order, which "
            f"should not matter: an operation of this network tells them apart; take match=false"
        )
    return out


def fitted(
    experiment: Experiment,
    curve: Curve,
    first: Tensor,
    last: Tensor,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int,
    tell: Callable[[int, float], None],
) -> Tensor:
    """The middle point of a curve; of a line any."""
    if curve == "line":
        return first
    surface = experiment.problem.surface
    n = len(experiment.problem.examples[1])
    batches = Minibatches(experiment.problem.examples, min(batch_size, n), seed, replacement=True)

    def surface_of(step: int) -> LossSurface:
        return surface if batch_size >= n else surface.on((batches(step, first),))

    return paths.fit(surface_of, curve, first, last, steps, lr, generator(seed, "connect", 0), tell)


def along(
    experiment: Experiment, curve: Curve, first: Tensor, middle: Tensor, last: Tensor, ts: Sequence[float]
) -> Iterator[tuple[Tensor, float]]:
    """The weights and the loss at each t of a curve, by the policy for batch norm there."""
    for t in ts:
        w = paths.point(curve, t, first, middle, last)
        yield w, float(experiment.surface_at(w).value(w))
