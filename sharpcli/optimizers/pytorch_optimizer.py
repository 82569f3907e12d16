"""Any update rule of the library pytorch_optimizer (pip install pytorch-optimizer), by its name: SOAP,
Shampoo, Adan, LAMB, Prodigy and others."""

from __future__ import annotations

import copy
import difflib
import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

import torch
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import State

OURS = ("params", "lr", "closure", "kwargs", "self")  # of a rule's parameters: not options


class Kept(Enum):
    """What stands in a rule's own state for what changes from step to step."""

    TENSOR = "tensor"
    INT = "int"
    FLOAT = "float"


@dataclass(frozen=True)
class PytorchOptimizer:
    """The rule `name` of the library with the hyperparameters `options` (null: none), the others being its
    own defaults; its learning rate is the run's. Every tensor of the network is a parameter of its own shape.

    The state is (numbers [1 + k], *tensors): the steps taken, the numbers and the tensors of the rule's
    `state_dict`, whose number a first step on random gradients finds. Random numbers that a rule draws depend
    on the number of the step alone. It states no edge, and follows no gradient flow that is known.

    Refuses a machine without the library, a name or an option that it does not have, and a rule that needs
    the loss again within a step, keeps something else than numbers and tensors, or fails on these weights.
    """

    name: str
    options: dict[str, Any] | None
    layout: Layout = field(init=False, default=())
    _form: list[Any] = field(init=False, default_factory=list, compare=False)

    def __post_init__(self) -> None:
        taken = [key for key in inspect.signature(self._class()).parameters if key not in OURS]
        if unknown := [key for key in self.options or {} if key not in taken]:
            possible = ", ".join(taken)
            raise Refusal(
                f"optimizer.options={self.options}: {self.name} has no {unknown[0]}; possible: {possible}"
            )

    def shaped(self, layout: Layout) -> Self:
        """The rule for weights that are the concatenation of these tensors."""
        out = copy.copy(self)
        object.__setattr__(out, "layout", layout)
        object.__setattr__(out, "_form", [])
        return out

    def init(self, w: Tensor) -> State:
        optimizer = self._made(w, 1e-3)
        g = torch.randn(len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(w)
        form, numbers, tensors = self._after(optimizer, g, 0)
        self._form[:] = [form]
        zero = torch.zeros(1 + len(numbers), dtype=torch.float64, device=w.device)
        return zero, *(torch.zeros_like(tensor) for tensor in tensors)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        optimizer, taken = self._made(w, lr), int(state[0][0])
        if taken:
            kept = _filled(self._form[0], iter(state[0][1:].tolist()), iter(state[1:]))
            optimizer.load_state_dict(kept)
        for group in optimizer.param_groups:
            group["lr"] = lr
        form, numbers, tensors = self._after(optimizer, grad(w), taken)
        if form != self._form[0]:
            raise Refusal(
                f"optimizer.name={self.name}: keeps other things at step {taken + 1} than at the first, "
                f"which no checkpoint can hold; take another rule"
            )
        counted = torch.tensor([taken + 1.0, *numbers], dtype=torch.float64, device=w.device)
        return _flat(optimizer), (counted, *tensors)

    def flow_step(self, lr: float) -> None:
        """None: it follows no gradient flow that is known."""

    def _class(self) -> Callable[..., torch.optim.Optimizer]:
        try:
            import pytorch_optimizer
        except ImportError:
            raise Refusal(
                "optimizer=pytorch_optimizer: the library is not installed; pip install pytorch-optimizer"
            ) from None
        names = pytorch_optimizer.get_supported_optimizers()
        if self.name not in names:
            close = ", ".join(difflib.get_close_matches(self.name, names, n=3)) or "none"
            raise Refusal(f"optimizer.name={self.name}: pytorch_optimizer has no such rule; close: {close}")
        made: Callable[..., torch.optim.Optimizer] = pytorch_optimizer.load_optimizer(self.name)
        return made

    def _made(self, w: Tensor, lr: float) -> torch.optim.Optimizer:
        """The library's object on copies of the tensors of w."""
        shapes = [shape for _, shape in self.layout] or [w.shape]
        pieces = w.detach().clone().split([shape.numel() for shape in shapes])
        tensors = [nn.Parameter(piece.view(shape)) for piece, shape in zip(pieces, shapes, strict=True)]
        with self._refusing():
            return self._class()(tensors, lr=lr, **(self.options or {}))

    def _after(
        self, optimizer: torch.optim.Optimizer, g: Tensor, taken: int
    ) -> tuple[Any, list[float], list[Tensor]]:
        """What it keeps after a step along the gradient g [D]: form, numbers, tensors."""
        tensors = [p for group in optimizer.param_groups for p in group["params"]]
        for p, piece in zip(tensors, g.split([p.numel() for p in tensors]), strict=True):
            p.grad = piece.view(p.shape).clone()
        devices = [g.device] if g.device.type == "cuda" else []
        with self._refusing(), torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(taken)
            optimizer.step()
        numbers: list[float] = []
        kept: list[Tensor] = []
        return self._form_of(optimizer.state_dict(), numbers, kept), numbers, kept

    def _form_of(self, kept: Any, numbers: list[float], tensors: list[Tensor]) -> Any:
        """`kept` with `Kept` in the place of its numbers and tensors, which are added to the lists."""
        if isinstance(kept, Tensor):
            tensors.append(kept.detach().clone())
            return Kept.TENSOR, kept.shape
        if isinstance(kept, bool | str | None):
            return kept
        if isinstance(kept, int | float):
            numbers.append(float(kept))
            return Kept.INT if isinstance(kept, int) else Kept.FLOAT
        if isinstance(kept, dict):
            return {key: self._form_of(value, numbers, tensors) for key, value in kept.items()}
        if isinstance(kept, list | tuple):
            return [self._form_of(value, numbers, tensors) for value in kept]
        raise Refusal(
            f"optimizer.name={self.name}: keeps a {type(kept).__name__}, which no checkpoint can hold; take "
            f"another rule"
        )

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """One line for what the library cannot do with these weights and options."""
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as problem:
            said = " ".join(str(problem).split())[:160]
            raise Refusal(
                f"optimizer.name={self.name} options={self.options}: fails on this problem "
                f"({type(problem).__name__}: {said}); change optimizer.options, or take another rule"
            ) from None


def _filled(form: Any, numbers: Iterator[float], tensors: Iterator[Tensor]) -> Any:
    """What `_form_of` made `form` of, with these numbers and tensors."""
    if isinstance(form, tuple):
        return next(tensors).clone()
    if isinstance(form, Kept):
        return int(next(numbers)) if form is Kept.INT else next(numbers)
    if isinstance(form, dict):
        return {key: _filled(value, numbers, tensors) for key, value in form.items()}
    if isinstance(form, list):
        return [_filled(value, numbers, tensors) for value in form]
    return form


def _flat(optimizer: torch.optim.Optimizer) -> Tensor:
    """The parameters as one vector [D]."""
    return torch.cat([p.detach().flatten() for group in optimizer.param_groups for p in group["params"]])
