"""The covariance of the examples' gradients: its size, its top eigenvalue, the noise scale, and how it aligns
with H.

Jastrzebski et al. 2018, arXiv:1711.04623; McCandlish et al. 2018, arXiv:1812.06162.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.linalg.lanczos import Krylov, extremes
from sharpcli.linalg.trace import signs
from sharpcli.measures import Estimates, Point, mean_and_stderr


def gradient_noise(at: Point, *, probes: int, tol: float, max_products: int) -> Estimates:
    """With C = (1/n) sum_i g_i g_i^T - g g^T over the n measured examples: `noise_trace` = Tr C and
    `noise_alignment` = Tr HC / (|H|_F |C|_F), from `probes` vectors of signs, with standard errors;
    `noise_lambda_1` of C by Lanczos to `tol`; `noise_scale` = Tr C / |g|^2, the batch size of McCandlish et
    al.

    Products with C pass through the outputs and cost what a Gauss-Newton product costs. Refuses fewer than 8
    probes, and networks whose examples share statistics (batch norm over a batch), where no example has a
    gradient of its own.
    """
    if probes < 8 or not tol > 0 or max_products < 1:
        raise Refusal(
            f"measure.gradient_noise: probes={probes}, tol={tol}, max_products={max_products}; at least 8, "
            f"above 0, 1"
        )
    if at.surface.joint:
        raise Refusal(
            "measure=gradient_noise: under batchnorm=batch no example has a gradient of its own; take "
            "population"
        )
    linearization, g = at.curvature.linearization, at.curvature.linearization.grad

    def covariance(V: Tensor) -> Tensor:
        return linearization.second_moment(V) - (V @ g)[:, None] * g

    traces, crossed, squares = [], [], []
    for _ in range(probes):
        z = signs(1, at.w, at.rng)
        Cz, Hz = covariance(z)[0].double(), linearization.hvp(z)[0].double()
        traces.append(float(z[0].double() @ Cz))
        crossed.append(float(Hz @ Cz))
        squares.append((float(Hz @ Hz), float(Cz @ Cz)))
    size, cross = torch.tensor(traces).double(), torch.tensor(crossed).double()
    HH, CC = torch.tensor(squares, dtype=torch.float64).T
    start = at.curvature.start(0) if at.warm is None else at.warm
    ritz = extremes(
        Krylov(covariance, start, at.curvature.room), 1, tol, max_products, tell=at.curvature.tell
    )
    slope = float(g.double().square().sum())
    noise_trace, spread = mean_and_stderr(size)
    bottom = float((HH.mean() * CC.mean()).sqrt())
    each = (cross - cross.mean() * 0.5 * (HH / HH.mean() + CC / CC.mean() - 2)) / bottom if bottom else cross
    values = {
        "noise_trace": noise_trace,
        "noise_trace_stderr": spread,
        **ritz.columns("noise_lambda"),
        "noise_scale": noise_trace / slope if slope else None,
        "noise_scale_stderr": spread / slope if slope else None,
        "noise_alignment": float(cross.mean()) / bottom if bottom else 0.0,
        "noise_alignment_stderr": mean_and_stderr(each)[1],  # of a ratio, by the delta method
    }
    return Estimates(values, 2 * probes + ritz.products, 1, ritz.vectors)
