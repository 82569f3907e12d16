"""Relative flatness of a layer, Petzka et al. 2021, arXiv:2001.00939, definition 3."""

from __future__ import annotations

import fnmatch
import math

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.linalg import trace as traces
from sharpcli.linalg.accuracy import trace_rounding
from sharpcli.measures import Estimates, Point


def relative_flatness(at: Point, *, layer: str, rtol: float, max_products: int) -> Estimates:
    """The relative flatness of a weight matrix W [d, m], whose row w_s holds the incoming weights of neuron
    s.

    By Hutchinson's estimator, to a relative standard error of `rtol`: with A = W Z, E[A.HA] over Z [m, m] of
    independent signs. `layer` is a parameter's name or a pattern such as `fc.*`; empty is the last matrix, as
    in the paper. Refuses a `layer` that names no weight matrix or several, rtol <= 0 and max_products below
    8.

    Columns:
        relative_flatness [loss, error _stderr]: sum_{s,s'} <w_s, w_s'> Tr H_{s,s'}, H_{s,s'} [m, m] the block
            of H for the rows s and s'; exact up to rounding where m^2 <= `max_products`; error:
            relative_flatness ± 2 relative_flatness_stderr covers it in at least 95 % of cases
        relative_flatness_converged [-]: whether relative_flatness_stderr is at most `rtol`
            |relative_flatness|
    """
    if not rtol > 0 or max_products < traces.MIN_SAMPLES:
        raise Refusal(
            f"measure.relative_flatness: rtol={rtol} and max_products={max_products}; rtol above 0, at "
            f"least 8"
        )
    names, tensors = at.problem.names, at.problem.tensors(at.w)
    matrices = [i for i, t in enumerate(tensors) if t.ndim > 1]
    pattern = layer or at.problem.last_matrix or at.problem.last_of_layout
    chosen = [i for i in matrices if fnmatch.fnmatch(names[i], pattern)]
    if len(chosen) != 1:
        raise Refusal(
            f"measure.relative_flatness.layer={layer}: {len(chosen)} weight matrices; name one of "
            + (", ".join(names[i] for i in matrices) or "none: this problem has no layers")
        )
    first = sum(t.numel() for t in tensors[: chosen[0]])
    W = tensors[chosen[0]].flatten(1)
    d, m = W.shape

    width = float(torch.linalg.matrix_norm(W.double(), 2))
    sizes: list[Tensor] = []  # |W|^2 |H A|^2 of each product, on which rounding acts before W^T cancels some

    def conjugated(Z: Tensor) -> Tensor:  # (W (x) I)^T H (W (x) I)
        A = torch.zeros(len(Z), len(at.w), dtype=W.dtype, device=W.device)
        A[:, first : first + d * m] = (W @ Z.view(-1, m, m)).flatten(1)
        HA = at.curvature.linearization.hvp(A)[:, first : first + d * m]
        sizes.append(width**2 * HA.double().square().sum(1))
        return (W.T @ HA.view(-1, d, m)).flatten(1)

    template = W.new_empty(m * m)
    estimate = traces.estimate(
        "hutchinson", conjugated, template, at.rng, rtol, max_products, at.curvature.tell
    )
    squared = torch.cat(sizes)
    exact = m * m <= max_products
    norm = float(squared.sum() if exact else squared.mean()) ** 0.5
    stderr = math.hypot(estimate.stderr, trace_rounding(norm, at.w))
    values = {
        "relative_flatness": estimate.value,
        "relative_flatness_stderr": stderr,
        "relative_flatness_converged": stderr <= rtol * abs(estimate.value),
    }
    return Estimates(values, estimate.products)
