"""Scores at the interpolator that gradient descent reaches from w: the point of the manifold of minimizers
around which noisy iterates hover."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import NEWTON_RESIDUAL
from sharpcli.landscape.interpolators import Interpolators, lambda_1
from sharpcli.landscape.surface import LossSurface
from sharpcli.measures import Estimates, Point, counted
from sharpcli.problems.problem import Problem

STALLED = 0.999  # of the residuals before a round: what has not fallen below that will not become small
ROUNDS = 20  # rounds of descent, the residuals being computed after each


def projected(at: Point, *, steps: int, tol: float) -> Estimates:
    """The problem's scores and norms at w*, the interpolator where gradient descent from w ends.

    By at most `steps` steps of size 1/lambda_1 until the residuals r (as in `manifold`) are below 1e-3, then
    by Newton's steps, which from further away would lead to a sharper point. For toys and small networks:
    refuses Jacobians of more than 2e7 entries, a loss without interpolators, tol <= 0, and batch norm with
    statistics of w or of several batches.

    Columns:
        projected_distance [weight]: |w - w*|
        projected_residual [output]: max |r| at w*, r the residuals (f_i - y_i for half squared loss)
        projected_converged [-]: whether projected_residual is at most `tol`
        projected_trace [loss/weight^2]: (1/n) |J|_F^2 at w*, J the outputs' Jacobian: Tr H at w*
        projected_<scores> [as the score]: each column of `scores`, at w*
        projected_<norms> [as the norm]: each column of `norms` that the problem defines (not l2_norm and
            init_distance), at w*
    """
    if not (tol > 0 and steps >= 0):
        raise Refusal(f"measure.projected: steps={steps} tol={tol}; steps at least 0, tol above 0")
    if at.problem.at(at.w).predict is not at.problem.surface.predict:
        raise Refusal(
            "measure=projected: the statistics of batch norm are those of w, and other weights have others; "
            "take problem.batchnorm=batch and a chunk of all examples"
        )
    surface, spent = counted(at.surface)
    interpolators = Interpolators(surface)
    w, residual, descended = descend(interpolators, at.surface, at.w, at.problem, steps, tol)
    values: dict[str, float | bool] = {
        "projected_distance": float((w - at.w).norm()),
        "projected_residual": residual,
        "projected_converged": residual <= tol,
        "projected_trace": float(interpolators.trace(w).detach()),
    }
    values |= {
        f"projected_{name}": value for name, value in (at.problem.scores(w) | at.problem.norms(w)).items()
    }
    return Estimates(values, gradients=descended + spent())


def descend(
    interpolators: Interpolators, surface: LossSurface, w: Tensor, problem: Problem, steps: int, tol: float
) -> tuple[Tensor, float, int]:
    """The interpolator where gradient descent from w ends, max |r| at it, and the steps of descent taken.

    By at most `steps` steps of size 1/lambda_1 (compiled where the problem has compiled functions) until the
    residuals are below 1e-3, or have not fallen by a thousandth in a twentieth of the steps, then by Newton's
    steps. A solver of gradient flow would take tiny steps at ReLU's kinks.
    """
    toy, taken = problem.compiled, 0
    toy = (
        toy if toy is not None and len(toy.y) == surface.examples else None
    )  # not for a part of the examples
    lr = 1 / max(float(lambda_1(interpolators.jacobian(w), surface.examples)), 1e-12)
    in_a_round = max(1, steps // ROUNDS)
    last = torch.inf
    for _ in range(ROUNDS):
        r = interpolators.residual(w)
        residual = float(r.norm())
        if float(r.abs().max()) <= NEWTON_RESIDUAL or not residual < STALLED * last:
            break
        taken, last = taken + in_a_round, residual
        if toy is not None:
            from sharpcli.problems.compiled_loop import Steps

            new = w.numpy().copy()
            Steps(toy, batch_size=len(toy.y)).run(
                new, np.zeros(len(new)), 0, in_a_round, np.full(in_a_round, lr)
            )
            w = torch.from_numpy(new)
        else:
            for _ in range(in_a_round):
                w = w - lr * surface.grad(w)
    return *interpolators.project(w, tol), taken
