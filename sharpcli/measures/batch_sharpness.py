"""Batch sharpness, Andreyev & Beneventano 2024, arXiv:2412.20553."""

from __future__ import annotations

import math
from typing import Any

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.accuracy import eigenvalue_rounding
from sharpcli.measures import Estimates, Point, mean_and_stderr

FEWEST = 8  # the fewest batches from which an interval is computed
FIRST_LOOK = 16  # batches before the first decision to stop, and by which factor they grow to the next:
NEXT_LOOK = 1.25  # a decision after every batch would stop where the interval is too short by chance


def batch_sharpness(at: Point, *, batch_size: Any, rtol: float, max_batches: int) -> Estimates:
    """The mean over mini-batches B of g_B.H_B g_B / |g_B|^2, g_B and H_B the gradient and Hessian of the loss
    on B: a mean of ratios, not a ratio of means.

    The examples of a batch are drawn without replacement, each batch from all examples. Sampling stops when
    half the 95 % interval, 2 batch_sharpness_stderr, is at most `rtol` of the mean, or at `max_batches`.
    `batch_size=full`, or all examples and more, gives the Rayleigh quotient g.Hg / |g|^2, exact up to
    rounding. Refuses a batch size below 1, rtol <= 0 and max_batches below 8.

    Columns:
        batch_sharpness [loss/weight^2, error _stderr]: the mean of the ratios over batches with g_B != 0,
            null where every g_B = 0; error: batch_sharpness ± 2 batch_sharpness_stderr covers it in at least
            95 % of cases, but for what only batches that were not drawn would show, as one example of a
            hundred that is ten times as long (`max_batches` and a small `rtol` draw more); for the full
            batch, what rounding can do
        batch_sharpness_zero [-]: the number of batches with g_B = 0, which the mean leaves out
        batch_sharpness_batches [-]: the number of batches drawn; absent for the full batch
        batch_sharpness_converged [-]: whether half the 95 % interval is at most `rtol` of the mean
    """
    full_batch = batch_size == "full"
    if (
        not (full_batch or (type(batch_size) is int and batch_size >= 1))
        or not rtol > 0
        or max_batches < FEWEST
    ):
        raise Refusal(
            f"measure.batch_sharpness: batch_size={batch_size}, rtol={rtol}, max_batches={max_batches}; a "
            f"size of at least 1 "
            f"or full, rtol above 0, at least {FEWEST} batches"
        )
    x, y = at.surface.joined
    n = len(y)
    if full_batch or batch_size >= n:
        of_all = quotient(at, at.surface)
        values = {
            "batch_sharpness": None if of_all is None else of_all[0],
            "batch_sharpness_stderr": None if of_all is None else of_all[1] / 2,
            "batch_sharpness_zero": int(of_all is None),
            "batch_sharpness_converged": of_all is None or of_all[1] <= rtol * abs(of_all[0]),
        }
        return Estimates(values, 1, 1)
    ratios: list[float] = []
    roundings: list[float] = []
    zero_gradients = batches = 0
    converged, look = False, float(FIRST_LOOK)
    stderr: float | None = None  # of fewer than FEWEST batches with a gradient nothing is known
    while not converged and batches < max_batches:
        examples = torch.randperm(n, generator=at.rng)[:batch_size].to(y.device)
        of_batch = quotient(at, at.surface.over(x[examples], y[examples]))
        batches += 1
        if of_batch is None:
            zero_gradients += 1
        else:
            ratios.append(of_batch[0])
            roundings.append(of_batch[1])
        if len(ratios) >= FEWEST and (len(ratios) >= look or batches == max_batches):
            look *= NEXT_LOOK
            mean, stderr = mean_and_stderr(ratios)
            stderr = math.hypot(stderr, 0.5 * sum(roundings) / len(roundings))
            converged = 2 * stderr <= rtol * abs(mean)
            if at.curvature.tell is not None:
                at.curvature.tell(batches, 2 * stderr / max(abs(mean), 1e-300))
    passes = batches * batch_size / n
    values = {
        "batch_sharpness": sum(ratios) / len(ratios) if ratios else None,
        "batch_sharpness_stderr": stderr,
        "batch_sharpness_zero": zero_gradients,
        "batch_sharpness_batches": batches,
        "batch_sharpness_converged": converged,
    }
    return Estimates(values, passes, passes)


def quotient(at: Point, surface: LossSurface) -> tuple[float, float] | None:
    """g.Hg / |g|^2 of a surface at w, and what rounding can do to it; None where g = 0.

    Rounding moves H, and turns g: the gradient at weights that differ in their last digit differs by up to
    eps |H| |w|, of which |Hg| / |g| stands for |H|.
    """
    linearization = surface.linearize(at.w)
    g = linearization.grad.double()
    length = float(g.norm())
    if not length:
        return None
    Hg = linearization.hvp(linearization.grad).double()
    slope = float(Hg.norm()) / length
    turn = min(1.0, eigenvalue_rounding(slope, at.w) * float(at.w.double().norm()) / length)
    return float(g @ Hg) / length**2, eigenvalue_rounding(slope, at.w) + 2 * slope * turn
