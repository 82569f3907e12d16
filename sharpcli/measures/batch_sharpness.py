"""Batch sharpness, Andreyev & Beneventano 2024, arXiv:2412.20553."""

from __future__ import annotations

from typing import Any

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.measures import Estimates, Point, mean_and_stderr

FEWEST = 8  # the fewest batches from which an interval is computed
NORMAL = 1.96  # half the width of a 95 % interval, in standard errors


def batch_sharpness(at: Point, *, batch_size: Any, rtol: float, max_batches: int) -> Estimates:
    """The mean over mini-batches B of g_B.H_B g_B / |g_B|^2, g_B and H_B the gradient and Hessian of the loss
    on B: a mean of ratios, not a ratio of means.

    The examples of a batch are drawn without replacement, each batch from all examples. Sampling stops when
    half the 95 % interval is at most `rtol` of the mean, or at `max_batches`. `batch_size=full`, or all
    examples and more, gives the Rayleigh quotient g.Hg / |g|^2 exactly. Refuses a batch size below 1, rtol <=
    0 and max_batches below 8.

    Columns:
        batch_sharpness [loss/weight^2, error _stderr]: the mean of the ratios over batches with g_B != 0,
            null where every g_B = 0; error: the standard error over batches, 0 for the full batch
        batch_sharpness_zero [-]: the number of batches with g_B = 0, which the mean leaves out
        batch_sharpness_batches [-]: the number of batches drawn; absent for the full batch
        batch_sharpness_converged [-]: whether half the 95 % interval is at most `rtol` of the mean; true for
            the full batch
    """
    full_batch = batch_size == "full"
    if (
        not (full_batch or (isinstance(batch_size, int) and batch_size >= 1))
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
        ratio = quotient(at, at.surface)
        values = {
            "batch_sharpness": ratio,
            "batch_sharpness_stderr": 0.0,
            "batch_sharpness_zero": int(ratio is None),
        }
        return Estimates(values | {"batch_sharpness_converged": True}, 1, 1)
    ratios: list[float] = []
    zero_gradients = batches = 0
    converged, stderr = False, float("inf")
    while not converged and batches < max_batches:
        examples = torch.randperm(n, generator=at.rng)[:batch_size].to(y.device)
        ratio = quotient(at, at.surface.on([(x[examples], y[examples])]))
        batches += 1
        if ratio is None:
            zero_gradients += 1
            continue
        ratios.append(ratio)
        if len(ratios) >= FEWEST:
            mean, stderr = mean_and_stderr(ratios)
            converged = NORMAL * stderr <= rtol * abs(mean)
            if at.curvature.tell is not None:
                at.curvature.tell(batches, NORMAL * stderr / max(abs(mean), 1e-300))
    passes = batches * batch_size / n
    values = {
        "batch_sharpness": sum(ratios) / len(ratios) if ratios else None,
        "batch_sharpness_stderr": stderr if ratios else None,
        "batch_sharpness_zero": zero_gradients,
        "batch_sharpness_batches": batches,
        "batch_sharpness_converged": converged,
    }
    return Estimates(values, passes, passes)


def quotient(at: Point, surface: LossSurface) -> float | None:
    """g.Hg / |g|^2 of a surface at w; None where g = 0."""
    linearization = surface.linearize(at.w)
    g = linearization.grad
    squared_norm = float(g.double().square().sum())
    return float(g.double() @ linearization.hvp(g).double()) / squared_norm if squared_norm > 0 else None
