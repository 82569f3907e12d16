"""Update rules. A part is a frozen dataclass with `init` and `step`; the other methods are optional, and a
rule that lacks one has nothing to say there.

| method | what it states | without it |
|---|---|---|
| `edge(lr)` | the curvature above which the rule diverges on a quadratic | no edge is logged or drawn |
| `base_edge(lr)` | the edge of the rule that this one wraps, drawn for comparison | none is drawn |
| `preconditioner(state, lr)` | P [D] that steps are divided by, the edge of P^(-1/2) H P^(-1/2) | P = 1 |
| `flow_step(lr)` | the time of gradient flow that a step takes, for small lr; None for another flow | None |
| `shaped(layout)` | the rule for weights that are the concatenation of these tensors | itself |
| `columns(state, lr)` | numbers of its state, added to every row | no column |
| `average(state)` | an average [D] of the weights, measured beside them | none is measured |
| `full_batch = True` | that it is defined for the loss of all examples alone | any batch |
| `exact_gradient = True` | that it solves to a tolerance, beyond half precision | any precision |
| `coordinatewise = True` | that a weight moves by its own state and gradient alone | its state is not split |
| `inner(state, change)` | the state with `change(rule, state)` of the rule inside | that is not split |
| `remark(steps, batch_size)` | a setting that changes nothing in such a run, or None | no remark |
| `states = {"ascent_radius": "rho"}` | which setting of the class is its ascent radius | measures take 0.05 |
| `compiled()` | its `Rule`, for toys whose steps are compiled | the general path |

The functions below ask a rule, whoever wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout

State = tuple[Tensor, ...]
Change = Callable[[Any, State], State]  # (rule, its state) -> another state of the rule


class Optimizer(Protocol):
    """Where w goes next, given a gradient function and a learning rate."""

    def init(self, w: Tensor) -> State:
        """The state before the first step."""

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        """The next weights and state."""


class Rule(NamedTuple):
    """A rule that compiled steps know: v <- beta v + g, w <- w - lr v (lr (g + beta v) for Nesterov), with g
    at w + rho g / |g| for SAM (w + rho g where it is not normalized)."""

    beta: float = 0.0
    nesterov: bool = False
    rho: float = 0.0
    normalized: bool = True


def edge(rule: Any, lr: float) -> float | None:
    """The curvature above which the rule diverges on a quadratic; None where it states none, and for lr =
    0."""
    return rule.edge(lr) if _states(rule, "edge") and lr > 0 else None


def base_edge(rule: Any, lr: float) -> float | None:
    """The edge of the rule that this one wraps; None where it states none, and for lr = 0."""
    return rule.base_edge(lr) if _states(rule, "base_edge") and lr > 0 else None


def preconditioner(rule: Any, state: State, lr: float) -> tuple[Tensor, float | None] | None:
    """The diagonal P [D] that steps are divided by, and the edge of P^(-1/2) H P^(-1/2); None for P = 1."""
    return rule.preconditioner(state, lr) if _states(rule, "preconditioner") else None


def knows_metric(rule: Any, lr: float) -> bool:
    """Whether P is known: not of a rule that follows no gradient flow, as it states, and states neither a
    preconditioner nor an edge. A rule around another one knows what that one knows, where it hands on its
    preconditioner."""
    inside = list(rules_inside(rule).values())
    if not inside:
        follows_a_flow = not _states(rule, "flow_step") or flow_step(rule, lr) is not None
        return follows_a_flow or _states(rule, "preconditioner") or _states(rule, "edge")
    if not _states(rule, "preconditioner") and any(_states(inner, "preconditioner") for inner in inside):
        return False
    return all(knows_metric(inner, lr) for inner in inside)


def flow_step(rule: Any, lr: float) -> float | None:
    """The time of gradient flow that a step takes, in the limit of small lr, of a rule with P = 1; None where
    it follows another flow."""
    return rule.flow_step(lr) if _states(rule, "flow_step") else None


def shaped(rule: Any, layout: Layout) -> Any:
    """The rule for weights of this layout; itself where it makes no difference between their tensors."""
    return rule.shaped(layout) if callable(getattr(rule, "shaped", None)) else rule


def columns(rule: Any, state: State, lr: float) -> dict[str, float]:
    """Numbers of the rule's state by the name of their column."""
    return rule.columns(state, lr) if _states(rule, "columns") else {}


def average(rule: Any, state: State) -> Tensor | None:
    """The average of the weights that the rule keeps; None where it keeps none."""
    return rule.average(state) if _states(rule, "average") else None


def compiled(rule: Any) -> Rule | None:
    """The rule as compiled steps know it; None where it has no such form."""
    return rule.compiled() if _states(rule, "compiled") else None


def rules_inside(rule: Any) -> dict[str, Any]:
    """The rules that a rule is made around, by the name of its attribute."""
    return {name: value for name, value in getattr(rule, "__dict__", {}).items() if hasattr(value, "step")}


def is_coordinatewise(rule: Any) -> bool:
    """Whether each weight moves by its own weight, state and gradient alone, as the rule states."""
    return _states(rule, "coordinatewise") and bool(rule.coordinatewise)


def hands_on_state(rule: Any) -> bool:
    """Whether a rule around another one says, by `inner`, which of its state is that one's."""
    return _states(rule, "inner")


def _states(rule: Any, method: str) -> bool:
    """Whether a rule has this method for its own step: a class that inherits it and writes another step has
    not."""
    for owner in type(rule).__mro__:
        if method in vars(owner):
            return True
        if "step" in vars(owner):
            return False
    return False


def started(rule: Optimizer, w: Tensor) -> State:
    """The state before the first step. Refuses a part that is no update rule, and a state that no checkpoint
    can hold."""
    where = f"optimizer={type(rule).__name__}"
    if missing := [name for name in ("init", "step") if not callable(getattr(rule, name, None))]:
        raise Refusal(
            f"{where}: an update rule has init(w) and step(w, state, grad, lr), and {missing[0]} is "
            f"missing; write it"
        )
    state = rule.init(w)
    if not isinstance(state, tuple) or not all(isinstance(part, Tensor) for part in state):
        raise Refusal(
            f"{where}: init(w) gives a {type(state).__name__}; give a tuple of tensors, () for no state"
        )
    return state


def stepped(rule: Optimizer, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
    """The first step of a process: as `rule.step`. Refuses a result that is not (w, state), and a rule that
    writes into the tensors it is given: what is saved on Ctrl-C are the tensors before the step."""
    where, kept = f"optimizer={type(rule).__name__}", [tensor.clone() for tensor in (w, *state)]
    result = rule.step(w, state, grad, lr)
    good = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], Tensor)
    good = good and (result[0].shape, result[0].dtype) == (w.shape, w.dtype)
    if (
        not good
        or not isinstance(result[1], tuple)
        or not all(isinstance(part, Tensor) for part in result[1])
    ):
        raise Refusal(
            f"{where}: step(w, state, grad, lr) gives (w, state), w {w.dtype} of shape {list(w.shape)} and "
            f"state a tuple of "
            "tensors; this one gives something else"
        )
    if not all(torch.allclose(a, b, 0, 0, equal_nan=True) for a, b in zip(kept, (w, *state), strict=True)):
        raise Refusal(
            f"{where}: step changes w or its state in place; return new tensors, as in w - lr * grad(w)"
        )
    return result


def needs_full_batch(rule: Any) -> bool:
    """Whether the rule is defined for the loss of all examples alone."""
    return bool(getattr(rule, "full_batch", False))


def remarks(rule: Any, steps: int, batch_size: int) -> list[str]:
    """What the rule, and those that it is made around, say of settings that change nothing in a run of so
    many steps and examples a batch."""
    own = rule.remark(steps, batch_size) if callable(getattr(rule, "remark", None)) else None
    of_inside = [line for inner in rules_inside(rule).values() for line in remarks(inner, steps, batch_size)]
    return of_inside if own is None else [own, *of_inside]


def needs_exact_gradient(rule: Any) -> bool:
    """Whether the rule, or a rule that it is made around, solves to a tolerance."""
    inside = rules_inside(rule).values()
    return bool(getattr(rule, "exact_gradient", False)) or any(map(needs_exact_gradient, inside))
