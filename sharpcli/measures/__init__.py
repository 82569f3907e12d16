"""Measures. A part is a function `(at: Point, *, ...) -> Estimates`, whose docstring ends with a block
`Columns:` that describes each of its columns (the grammar is in `commands/columns.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, can_be_cut
from sharpcli.landscape.curvature import Curvature, Operator, changed_checkpoint
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.accuracy import mean_and_stderr, widening
from sharpcli.optimizers import Optimizer, State, flow_step, preconditioner
from sharpcli.problems.problem import ClosedFlows, Problem

THREE_DIGITS = 1e3
GROUPS = 8  # of the measured examples, whose differences say what other examples would change

__all__ = [
    "Estimates",
    "Point",
    "closed_flows",
    "counted",
    "elapsed",
    "left_out",
    "mean_and_stderr",
    "update",
    "weighs_alike",
]


@dataclass(frozen=True)
class Point:
    """Weights, and what a measure may use at them.

    `w` [D] are the weights; `surface` is the training loss on the measured examples, with the normalization
    statistics at w fixed as the problem's policy says; `curvature` the curvature of this surface at w, shared
    by all measures of w; `rng` the measure's own generator; `warm` what this measure left at the
    previous measured step (None at the first); `problem` supplies all else, such as test examples and norms.
    `lr` is the step size, `step` the number of steps taken, `optimizer` the update rule. `state`, the state
    of the update rule, and `init` [D], the weights at which training began, are None for a file of weights.
    `constant_lr` says whether the step size is the same at every step. `population` is the number of examples
    of which the measured ones are a part; None where nothing is left out. `batch_size` is the number of
    examples of a step, and `flow_strength` the speed of the limiting flow of the run's noise, over that of
    label noise of variance 1 on single examples; None where it has another limiting flow.
    """

    w: Tensor
    surface: LossSurface
    curvature: Curvature
    rng: Generator
    warm: Any
    problem: Problem
    lr: float
    optimizer: Optimizer
    state: State | None
    init: Tensor | None
    step: int = 0
    constant_lr: bool = True
    population: int | None = None
    batch_size: int = 1
    flow_strength: float | None = 1.0

    def left(self, rows: int, name: str) -> Tensor | None:
        """The tensor [rows, D] that the measure `name` left at the previous measured step; None at the first.
        Refuses another, as of a changed checkpoint."""
        if self.warm is None:
            return None
        shape = tuple(getattr(self.warm, "shape", ()))
        if shape != (rows, len(self.w)) or not bool(self.warm.isfinite().all()):
            raise changed_checkpoint(f"for {name} a tensor of shape {list(shape)}, or numbers not finite")
        left: Tensor = self.warm
        return left

    def normal(self) -> Tensor:
        """A vector of independent N(0, 1) [D] from the measure's own generator, drawn in float64."""
        return torch.randn(len(self.w), generator=self.rng, dtype=torch.float64).to(self.w)


@dataclass(frozen=True)
class Estimates:
    """`values` by column name, the error of an estimate in the column `<name>_error`, of a mean of samples in
    `<name>_stderr` (half the half width of an interval, see `linalg/accuracy.py`); the cost: `products` with
    the Hessian, or with a matrix of the same cost, over all measured examples (None for a measure that needs
    none) and `gradients` (a value of the loss costs a third); `warm`, a tensor or several by
    name, from which the next measurement may start; `vectors`, directions [D] that were measured, by the
    column of their value (eigenvectors)."""

    values: dict[str, Any] = field(default_factory=dict)
    products: float | None = None
    gradients: float = 0
    warm: Tensor | Mapping[str, Tensor] | None = None
    vectors: dict[str, Tensor] = field(default_factory=dict)


def left_out(at: Point, operator: Operator, V: Tensor) -> tuple[list[float], float]:
    """What the examples that are not measured can change of v.Av for the rows v of V, A the Hessian or the
    Gauss-Newton matrix: half the half width of a 95 % interval for the difference to v.Av of all n examples;
    and the products that this cost. Empty where all examples are measured, or cannot be told apart.

    The m measured examples are cut into `GROUPS` groups, with v.A_b v in each; their mean differs from that
    over all n, if the m are as good as drawn at random, by s sqrt((1 - m/n) / GROUPS), s the standard
    deviation over groups.
    """
    m = at.surface.examples
    if at.population is None or m >= at.population:
        return [], 0
    groups = _groups(at.surface)
    if len(groups) < 2:
        return [], 0
    forms = []
    for group in groups:
        linear = at.surface.on(group).linearize(at.w)
        product = linear.hvp(V) if operator == "hessian" else linear.ggn(V)
        forms.append((V.double() * product.double()).sum(1))
    G = len(groups)
    spread = torch.stack(forms).std(0) * ((1 - m / at.population) / G) ** 0.5 * widening(G - 1)
    return [float(s) for s in spread], len(V)


def _groups(surface: LossSurface) -> list[list[Batch]]:
    """The examples in `GROUPS` groups of about equal size; whole batches where a batch must not be cut."""
    if surface.joint or not all(can_be_cut(batch) for batch in surface.batches):
        size = -(-len(surface.batches) // GROUPS)
        return [list(surface.batches[i : i + size]) for i in range(0, len(surface.batches), size)]
    groups: list[list[Batch]] = [[] for _ in range(min(GROUPS, surface.examples))]
    for x, y in surface.batches:
        pieces = min(len(groups), len(y))
        edges = [len(y) * i // pieces for i in range(pieces + 1)]
        for i in range(pieces):
            rows = slice(edges[i], edges[i + 1])
            min(groups, key=lambda group: sum(len(y) for _, y in group)).append((x[rows], y[rows]))
    return groups


def weighs_alike(surface: LossSurface) -> bool:
    """Whether every example has the same weight in the mean, as far as parts of the batches show it."""
    shares = set()
    for x, y in surface.batches:
        cuts = GROUPS if can_be_cut((x, y)) and len(y) >= GROUPS else 1
        ends = [len(y) * i // cuts for i in range(cuts + 1)]
        parts = [(x[i:j], y[i:j]) for i, j in pairwise(ends)] if cuts > 1 else [(x, y)]
        shares |= {surface.weigh(part) / len(part[1]) for part in parts}
    return max(shares) <= min(shares) * (1 + 1e-9)


def closed_flows(at: Point, measure: str) -> ClosedFlows:
    """The closed forms of the problem's flows. Refuses, in the name of `measure`, a problem that supplies no
    closed forms, and a part of a problem's parameters."""
    if at.problem.flows is None:
        raise Refusal(
            f"measure={measure}: this problem supplies no closed form of its flows; use problem=uv, or "
            "measure=[manifold,projected]"
        )
    return at.problem.flows


def counted(surface: LossSurface) -> tuple[LossSurface, Callable[[], float]]:
    """The surface for `Interpolators`, and a function that says how many gradients its calls have cost so
    far: a Jacobian as many as the outputs of all examples, a pass without derivatives a third."""
    spent, predict_only = [0.0], surface.predict

    def predict(w: Tensor, x: Tensor) -> Tensor:
        outputs = predict_only(w, x)
        spent[0] += outputs.numel() if w.requires_grad else 1 / 3
        return outputs

    return replace(surface, predict=predict), lambda: spent[0]


def update(at: Point) -> tuple[Tensor, float, float]:
    """The direction d of the optimizer's next update w - lr d on the measured surface, the slope d.grad L,
    and the gradients it cost; without a state of the optimizer, or without lr, d is the gradient."""
    surface, seen = at.surface, list[tuple[Tensor, Tensor]]()  # the weights and their gradients

    def grad(w: Tensor) -> Tensor:
        g = surface.grad(w.to(at.w.dtype))
        seen.append((w, g))
        return g.to(w.dtype)

    if at.state is None or not at.lr > 0:
        d = grad(at.w)
    else:
        # the step is taken in float64, in whose digits a short step is not lost beside w
        wide = at.w.dtype if at.w.device.type == "mps" else torch.float64
        # for rules that are defined by the loss itself
        grad.whole = surface.through(lambda w: w.to(at.w.dtype))  # type: ignore[attr-defined]
        state = tuple(part.to(wide) if part.is_floating_point() else part for part in at.state)
        w = at.w.to(wide)

        def direction(lr: float) -> Tensor:
            """d of the update w - lr d."""
            after, _ = at.optimizer.step(w, state, grad, lr)
            return ((w - after) / lr).to(at.w)

        d = direction(at.lr)
        # where fewer than three digits of the step are left in w - lr d, d is that of a longer step
        scale = float(seen[0][1].double().norm()) if seen else 0.0
        length, eps = max(float(w.norm()), 1e-3) / max(scale, 1e-300), torch.finfo(wide).eps
        if scale > 0 and at.lr < THREE_DIGITS * eps * length:
            d = direction(eps**0.5 * length)
    # most rules take a gradient at w, and some at another point alone
    own = next((g for w, g in seen if torch.equal(w, at.w.to(w.dtype))), None)
    g = grad(at.w) if own is None else own
    return d, float(g.double() @ d.double()), len(seen)


def elapsed(at: Point, measure: str, power: int = 1) -> float:
    """lr^power step, the time of a flow that a run has followed; for a rule whose step takes another time of
    gradient flow than lr, as with momentum, that time in place of lr. Refuses, in the name of `measure`, a
    schedule under which the time is no multiple of the step, and a rule that divides its steps by a
    preconditioner or follows no gradient flow for another reason."""
    if not at.constant_lr:
        raise Refusal(
            f"measure={measure}: its time is lr^{power} step, which needs the same lr at every step; use "
            f"schedule=constant"
        )
    if at.state is not None and preconditioner(at.optimizer, at.state, at.lr) is not None:
        raise Refusal(
            f"measure={measure}: optimizer={type(at.optimizer).__name__} divides its steps by a "
            f"preconditioner, and follows no gradient flow; use optimizer=gd or optimizer=momentum"
        )
    if (time := flow_step(at.optimizer, at.lr)) is None:
        raise Refusal(
            f"measure={measure}: optimizer={type(at.optimizer).__name__} states no gradient flow "
            f"that it follows; use optimizer=gd or optimizer=momentum"
        )
    return float(time**power * at.step)
