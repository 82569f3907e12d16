"""The stochastic variance-amplified gradient (SVAG), which keeps the noise of SGD at a smaller step size; Li,
Malladi & Arora 2021, arXiv:2102.12470."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def svag(surface: LossSurface, w: Tensor, rng: Stream, *, l: float) -> LossSurface:  # noqa: E741 - the paper's name
    """(1 + s)/2 L_A + (1 - s)/2 L_B with s = sqrt(2 l - 1), A and B the first and second half of the step's
    examples: the mean of the gradient stays, and its covariance is l times that of a gradient of half of the
    examples.

    Other objectives come before it: after it they would change A alone.

    With step size lr / l and l times as many steps, l -> infinity gives the stochastic differential equation
    of SGD at lr with half the batch; l = 1 is A alone. Refuses l < 1 and an odd number of examples.
    """
    x, y = surface.joined
    half = len(y) // 2
    if l < 1 or len(y) != 2 * half:
        raise Refusal(
            f"l={l} with {len(y)} examples a step: l at least 1, and an even batch_size that divides the "
            f"examples"
        )
    s = (2 * l - 1) ** 0.5
    predict, loss = surface.predict, surface.loss

    def second_term(w: Tensor) -> Tensor:
        return (1 - s) / 2 * loss(predict(w, x[half:]), y[half:])

    first_term = replace(surface, loss=lambda f, y: (1 + s) / 2 * loss(f, y), batches=((x[:half], y[:half]),))
    return first_term.plus(second_term)


svag.divides_examples = True  # type: ignore[attr-defined]
