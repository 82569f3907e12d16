"""Gradients of training steps compiled by `torch.compile`, and the rule that decides when that is
worthwhile."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves

from sharpcli.errors import Refusal
from sharpcli.landscape.approximate import ApproximateSurface, Predict
from sharpcli.landscape.compiled_products import When
from sharpcli.landscape.hessian_products import Linearization
from sharpcli.landscape.surface import LossSurface

# Steps from which on `auto` compiles on CUDA: a compilation takes 10 to 40 s (docs/benchmarks.md), which a
# millisecond saved by each step repays after as many. No card was timed.
BREAK_EVEN_STEPS = 20_000
# Of the norm of a gradient, a difference that is no rounding; in half precision, the rounding itself is a
# tenth of a small gradient.
WRONG, WRONG_IN_HALF = 1e-2, 0.3


def pays(when: When, device: torch.device, steps: int) -> bool:
    """Whether the steps of a run are compiled: `true` and `false` as they say, `auto` on CUDA from
    `BREAK_EVEN_STEPS` steps on, and never on a CPU, where a compiled step was 0.7 to 1.2 times as fast."""
    return when == "true" or (when == "auto" and device.type == "cuda" and steps >= BREAK_EVEN_STEPS)


@dataclass(frozen=True)
class CompiledSteps(ApproximateSurface):
    """The loss whose outputs and gradient are compiled, with the same numbers up to rounding. What is more
    than a gradient comes from the loss that it was made of, which `exact` is: a compiled function has no
    second derivative."""

    @classmethod
    def of(cls, surface: LossSurface, when: When) -> CompiledSteps:
        """The surface with compiled steps. On a machine that cannot compile, or whose compiled gradient is
        wrong, `when=true` raises Refusal at the first step and `auto` goes on uncompiled."""
        of_surface = {field.name: getattr(surface, field.name) for field in fields(LossSurface)}
        compiled = _Compiled(surface.predict, when)
        return cls(**of_surface | {"predict": compiled, "known": None}, predict_exactly=surface.predict)

    def linearize(self, w: Float[Tensor, " D"], graph_bytes: int | None = None) -> Linearization:
        """That of the uncompiled loss."""
        return self.exact.linearize(w, graph_bytes)

    def gradient_graph(self, w: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        """That of the uncompiled loss."""
        return self.exact.gradient_graph(w)

    def curvature_grad(self, w: Float[Tensor, " D"], V: Float[Tensor, "m D"]) -> Float[Tensor, " D"]:
        """That of the uncompiled loss."""
        return self.exact.curvature_grad(w, V)


class _Compiled:
    """`predict` compiled at its first call, which compares the gradient with that of the uncompiled one."""

    def __init__(self, predict: Predict, when: When) -> None:
        self._plain, self._when = predict, when
        self._compiled: Predict | None = None

    def __call__(self, w: Tensor, x: Any) -> Any:
        if self._compiled is None:
            self._compiled = self._checked(w, x)
        return self._compiled(w, x)

    def _checked(self, w: Tensor, x: Any) -> Predict:
        """The compiled function, or where `auto` cannot have it the uncompiled one."""
        # Imported here because the import takes a second, and most runs compile nothing.
        from torch._dynamo.exc import TorchDynamoException

        # random numbers, as of dropout, are those of the uncompiled function
        compiled = torch.compile(self._plain, dynamic=False, options={"fallback_random": True})
        exact = _gradient(self._plain, w, x)
        try:
            difference = _gradient(compiled, w, x) - exact
        except (RuntimeError, TorchDynamoException) as error:
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise
            first_line = str(error).strip().splitlines()[0]
            reason = f"torch.compile fails here ({first_line}); install a C++ compiler, or take"
        else:
            most = WRONG_IN_HALF if torch.is_autocast_enabled(w.device.type) else WRONG
            if float(difference.norm()) <= most * float(exact.norm()):
                return compiled
            reason = f"torch.compile gives a wrong gradient in torch {torch.__version__}; take"
        if self._when == "auto":
            return self._plain
        raise Refusal(f"{reason} compile_step=false")


def _gradient(predict: Predict, w: Tensor, x: Any) -> Tensor:
    """The gradient in w of the outputs' squared norm, which leaves the random numbers as they were."""
    at = w.detach().requires_grad_()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        leaves = [out for out in tree_leaves(predict(at, x)) if isinstance(out, Tensor)]
        squares = [out.float().square().sum() for out in leaves if out.is_floating_point()]
        return torch.autograd.grad(torch.stack(squares).sum(), at)[0]
