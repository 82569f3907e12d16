"""Sharpness in units of the weights: Kwon et al. 2021, arXiv:2102.11600; Andriushchenko et al. 2023,
arXiv:2302.07011; filter normalization as in Li et al. 2018, arXiv:1712.09913."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.accuracy import loss_rounding
from sharpcli.linalg.ascent import Norm, highest
from sharpcli.measures import Estimates, Point, mean_and_stderr


def adaptive_sharpness(
    at: Point,
    *,
    rho: float,
    norm: Norm,
    scale: Literal["element", "filter", "layer"],
    batch: int | None,
    restarts: int,
    steps: int,
    average: Literal["normal", "uniform"],
    samples: int,
    normalize_logits: bool,
    tol: float,
    rtol: float,
    max_products: int,
) -> Estimates:
    """The rise of the loss under perturbations v = T u in units of the weights, and the spectrum of T H T, T
    [D] a diagonal matrix: |w| for `scale=element`.

    `scale=filter`: T_i is the norm of the row that w_i belongs to (the incoming weights of a neuron or
    filter), and |w_i| for biases and the last layer. `scale=layer`: T_i is the norm of the whole tensor that
    w_i belongs to. Where T_i = 0, v_i = 0. The worst case is by projected gradient ascent from the gradient
    and from `restarts` random points, for each `batch` examples (null: for all examples at once).

    `normalize_logits` divides each example's outputs by their standard deviation over classes. For `element`
    the columns do not change under rescalings of ReLU neurons (Dinh et al. 2017). Refuses rho, tol and rtol
    <= 0, counts below 1, fewer than 2 samples and fewer than 8 products.

    Columns:
        adaptive_worst [loss, error _spread]: max of L(w + v) - L(w) over |u| <= rho in `norm`, averaged over
            batches; a lower bound, as ascent may miss the maximum; error: the highest rise that a start
            reached less the lowest, averaged over batches
        adaptive_worst_converged [-]: whether the highest ascent of every batch converged within `steps`
        adaptive_average [loss, error _stderr]: mean of L(w + v) - L(w) over `samples` draws of u from N(0,
            rho^2 I), or uniform on [-rho, rho]^D; error: adaptive_average ± 2 adaptive_average_stderr covers
            it in at least 95 % of cases
        adaptive_lambda_1 [loss, error _error]: the largest eigenvalue of T H T
        adaptive_lambda_1_residual [loss]: |T H T x - lambda_1 x| for the unit eigenvector x: T H T has an
            eigenvalue within this distance of adaptive_lambda_1
        adaptive_trace [loss, error _stderr]: the trace of T H T, by Hutch++; exact up to rounding where D <=
            `max_products`; error: as of adaptive_average
        adaptive_converged [-]: whether adaptive_lambda_1 reached `tol` and adaptive_trace `rtol`
    """
    if (
        not (rho > 0 and tol > 0 and rtol > 0)
        or min(restarts, steps, 1 if batch is None else batch) < 1
        or samples < 2
        or max_products < 8
    ):
        raise Refusal(
            f"measure.adaptive_sharpness: rho={rho}, tol={tol}, rtol={rtol}, restarts={restarts}, "
            f"steps={steps}, "
            f"batch={batch}, samples={samples}, max_products={max_products}; the first three above 0, at "
            f"least 1 restart, "
            "step and example a batch, 2 samples, 8 products"
        )
    T = scales(at, scale)
    surface = at.surface.through(lambda u: at.w + T * u)
    if normalize_logits:
        inner = surface.predict
        surface = replace(surface, predict=lambda u, x: standardized(inner(u, x)))
    worst, spread, gradients, converged = worst_case(at, surface, rho, norm, batch, restarts, steps)
    origin = torch.zeros_like(at.w)
    loss, rises = float(surface.value(origin)), []
    for _ in range(samples):
        u = torch.empty(len(at.w), dtype=torch.float64)
        u = u.normal_(generator=at.rng) if average == "normal" else u.uniform_(-1, 1, generator=at.rng)
        rises.append(float(surface.value(rho * u.to(at.w))) - loss)
    average_rise, average_stderr = mean_and_stderr(rises)
    average_stderr = math.hypot(average_stderr, loss_rounding(loss, at.w))
    curvature = Curvature(
        surface, origin, *at.curvature.key, at.curvature.basis_bytes, at.curvature.tell, is_fixed=False
    )
    ritz = curvature.eigenpairs("hessian", 1, tol, max_products, at.warm)
    trace = curvature.trace("hessian", "hutchpp", at.rng, rtol, max_products)
    values = {
        "adaptive_worst": worst,
        "adaptive_worst_spread": spread,
        "adaptive_worst_converged": converged,
        "adaptive_average": average_rise,
        "adaptive_average_stderr": average_stderr,
        **ritz.columns("adaptive_lambda"),
        "adaptive_trace": trace.value,
        "adaptive_trace_stderr": trace.stderr,
        "adaptive_converged": ritz.converged and trace.converged,
    }
    return Estimates(
        values, ritz.products + trace.products, gradients + (samples + 1) / 3, ritz.remembered.saved()
    )


def worst_case(
    at: Point, surface: LossSurface, rho: float, norm: Norm, batch: int | None, restarts: int, steps: int
) -> tuple[float, float, float, bool]:
    """The means over batches of the largest rise and of its spread over starts, the gradients spent (each
    over all examples), and whether the highest ascent of every batch converged."""
    worst, spread, gradients, converged = 0.0, 0.0, 0.0, True
    parts = [surface] if batch is None else pieces(surface, batch)
    weights = [sum(map(part.weigh, part.batches)) for part in parts]
    for part, counted in zip(parts, weights, strict=True):
        origin, weight = torch.zeros_like(at.w), counted / sum(weights)
        before, g = part.value_and_grad(origin)
        starts = [g, *(at.normal() for _ in range(restarts))]
        maxima = highest(part.value_and_grad, starts, rho, norm, steps, 1e-4)
        worst += weight * (maxima[0].value - before)
        spread += weight * (maxima[0].value - maxima[-1].value)
        gradients += weight * (1 + sum(maximum.gradients for maximum in maxima))
        converged &= maxima[0].converged
    return worst, spread, gradients, converged


def pieces(surface: LossSurface, size: int) -> list[LossSurface]:
    """The surface of every `size` examples in turn; the last may have fewer."""
    x, y = surface.joined
    return [surface.over(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


def standardized(outputs: Tensor) -> Tensor:
    """Each row over its own standard deviation: f / sqrt(mean_c (f_c - mean f)^2)."""
    return outputs / outputs.std(1, correction=0, keepdim=True).clamp_min(torch.finfo(outputs.dtype).tiny)


def scales(at: Point, kind: str) -> Tensor:
    """T [D]: for each weight its size (`element`), the norm of its row of a matrix (`filter`) or that of its
    tensor (`layer`)."""
    parts, tensors = [], at.problem.tensors(at.w)
    names = at.problem.names
    last = at.problem.last_matrix or at.problem.last_of_layout
    for i, t in enumerate(tensors):
        if kind == "layer":
            parts.append(t.norm().expand(t.numel()))
        elif kind == "filter" and t.ndim > 1 and names[i] != last:
            parts.append(t.flatten(1).norm(dim=1, keepdim=True).expand(-1, t[0].numel()).flatten())
        else:
            parts.append(t.abs().flatten())
    return torch.cat(parts)
