"""Batch sharpness, Andreyev & Beneventano 2024, arXiv:2412.20553."""

from __future__ import annotations

from typing import Any

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.measures import Estimates, Point, mean_and_stderr

FEWEST = 8  # batches without which no interval is believed
NORMAL = 1.96  # half a 95 % interval in standard errors


def batch_sharpness(at: Point, *, batch_size: Any, rtol: float, max_batches: int) -> Estimates:
    """`batch_sharpness` = E over mini-batches B of g_B.H_B g_B / |g_B|^2: a mean of ratios, over batches
    drawn without replacement within each; stops when half the 95 % interval is at most `rtol` of the mean, or
    at `max_batches` (`batch_sharpness_converged` false). `batch_sharpness_zero` batches with g_B = 0 are left
    out.

    `batch_size=full` gives the Rayleigh quotient of g, exactly. Refuses a batch size below 1, rtol <= 0.
    """
    whole = batch_size == "full"
    if (
        not (whole or (isinstance(batch_size, int) and batch_size >= 1))
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
    if whole or batch_size >= n:
        ratio = quotient(at, at.surface)
        exact = {
            "batch_sharpness": ratio,
            "batch_sharpness_stderr": 0.0,
            "batch_sharpness_zero": int(ratio is None),
        }
        return Estimates(exact | {"batch_sharpness_converged": True}, 1, 1)
    ratios: list[float] = []
    zero = tried = 0
    done, stderr = False, float("inf")
    while not done and tried < max_batches:
        picked = torch.randperm(n, generator=at.rng)[:batch_size].to(y.device)
        ratio = quotient(at, at.surface.on([(x[picked], y[picked])]))
        tried += 1
        if ratio is None:
            zero += 1
            continue
        ratios.append(ratio)
        if len(ratios) >= FEWEST:
            mean, stderr = mean_and_stderr(ratios)
            done = NORMAL * stderr <= rtol * abs(mean)
            if at.curvature.tell is not None:
                at.curvature.tell(tried, NORMAL * stderr / max(abs(mean), 1e-300))
    share = tried * batch_size / n
    values = {
        "batch_sharpness": sum(ratios) / len(ratios) if ratios else None,
        "batch_sharpness_stderr": stderr if ratios else None,
        "batch_sharpness_zero": zero,
        "batch_sharpness_batches": tried,
        "batch_sharpness_converged": done,
    }
    return Estimates(values, share, share)


def quotient(at: Point, surface: LossSurface) -> float | None:
    """g.Hg / |g|^2 of a surface at w; None where g = 0."""
    linearization = surface.linearize(at.w)
    g = linearization.grad
    size = float(g.double().square().sum())
    return float(g.double() @ linearization.hvp(g).double()) / size if size > 0 else None
