"""The largest rise of the loss within a distance: the ball, and the box of Keskar et al. 2016,
arXiv:1609.04836."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.linalg.ascent import Highest, Norm, highest
from sharpcli.measures import Estimates, Point


def eps_sharpness(
    at: Point, *, eps: float, box_eps: float, restarts: int, steps: int, rtol: float
) -> Estimates:
    """`eps_rise` = max over |w' - w|_2 <= eps of L(w') - L(w), and `eps_sharpness` = 2 eps_rise / eps^2 (->
    lambda_1 as eps -> 0 at a minimum); `keskar_sharpness` = 100 (max L - L) / (1 + L) over |w'_i - w_i| <=
    box_eps (|w_i| + 1).

    By projected gradient ascent from +-v_1 (the top eigenvector to 1 %), from the gradient and from
    `restarts` random points of the sphere (the box: their signs). A lower bound: `<name>_spread` is the best
    less the worst of the starts, `<name>_converged` whether the best ended before `steps`. Refuses eps <= 0,
    and fewer than 1 restart or step.
    """
    if not (eps > 0 and box_eps > 0 and rtol > 0) or restarts < 1 or steps < 1:
        raise Refusal(
            f"measure.eps_sharpness: eps={eps}, box_eps={box_eps}, rtol={rtol}, restarts={restarts}, "
            f"steps={steps}; "
            "the first three above 0, the others at least 1"
        )
    ritz = at.curvature.eigenpairs("hessian", 1, 1e-2, 100)
    v, loss = ritz.vectors[0], float(at.surface.value(at.w))
    random = [at.normal() for _ in range(restarts)]
    starts = [v, -v, at.curvature.linearization.grad, *random]
    ball = _climb(at, torch.ones_like(at.w), eps, "l2", starts, steps, rtol)
    box = _climb(at, at.w.abs() + 1, box_eps, "linf", starts, steps, rtol)
    rise, high = ball[0].value - loss, box[0].value - loss
    values = {
        "eps_rise": rise,
        "eps_sharpness": 2 * rise / eps**2,
        "eps_sharpness_spread": 2 * (ball[0].value - ball[-1].value) / eps**2,
        "eps_sharpness_converged": ball[0].converged,
        "keskar_sharpness": 100 * high / (1 + loss),
        "keskar_sharpness_spread": 100 * (box[0].value - box[-1].value) / (1 + loss),
        "keskar_sharpness_converged": box[0].converged,
    }
    return Estimates(values, ritz.products, sum(ascent.gradients for ascent in ball + box) + 1)


def _climb(
    at: Point, scale: Tensor, radius: float, norm: Norm, starts: list[Tensor], steps: int, rtol: float
) -> list[Highest]:
    surface = at.surface.through(lambda u: at.w + scale * u)
    return highest(surface.value_and_grad, starts, radius, norm, steps, rtol)
