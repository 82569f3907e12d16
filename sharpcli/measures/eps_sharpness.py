"""The largest rise of the loss within a distance: in a ball, and in the box of Keskar et al. 2016,
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
    """The largest rise of the loss over the ball |w' - w|_2 <= eps, and over the box |w'_i - w_i| <= box_eps
    (|w_i| + 1).

    By projected gradient ascent from v_1 and -v_1 (the Hessian's top eigenvector, to 1 %), from the gradient
    and from `restarts` random points of the sphere; in the box, from the vertices with the signs of these
    vectors. Refuses eps, box_eps and rtol <= 0, and fewer than 1 restart or step.

    Columns:
        eps_rise [loss]: max of L(w') - L(w) over the ball; a lower bound, as ascent may miss the maximum
        eps_sharpness [loss/weight^2, error _spread]: 2 eps_rise / eps^2, which tends to lambda_1 as eps -> 0
            at a minimum; error: the highest value that a start reached less the lowest
        eps_sharpness_converged [-]: whether the highest ascent in the ball converged within `steps`
        keskar_sharpness [%, error _spread]: 100 (max L - L) / (1 + L), the maximum over the box; a lower
            bound; error: the highest value that a start reached less the lowest; null for a loss of -1 or
            less
        keskar_sharpness_converged [-]: whether the highest ascent in the box converged within `steps`
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
    rise, box_rise = ball[0].value - loss, box[0].value - loss
    values = {
        "eps_rise": rise,
        "eps_sharpness": 2 * rise / eps**2,
        "eps_sharpness_spread": 2 * (ball[0].value - ball[-1].value) / eps**2,
        "eps_sharpness_converged": ball[0].converged,
        "keskar_sharpness": 100 * box_rise / (1 + loss) if loss > -1 else None,
        "keskar_sharpness_spread": (100 * (box[0].value - box[-1].value) / (1 + loss) if loss > -1 else None),
        "keskar_sharpness_converged": box[0].converged,
    }
    return Estimates(values, ritz.products, sum(ascent.gradients for ascent in ball + box) + 1)


def _climb(
    at: Point, scale: Tensor, radius: float, norm: Norm, starts: list[Tensor], steps: int, rtol: float
) -> list[Highest]:
    surface = at.surface.through(lambda u: at.w + scale * u)
    return highest(surface.value_and_grad, starts, radius, norm, steps, rtol)
