"""The covariance of the examples' gradients: its size, its top eigenvalue, the noise scale, and its alignment
with the Hessian.

Jastrzebski et al. 2018, arXiv:1711.04623; McCandlish et al. 2018, arXiv:1812.06162.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import check_vectors
from sharpcli.linalg.accuracy import trace_rounding
from sharpcli.linalg.krylov import Krylov
from sharpcli.linalg.lanczos import extremes
from sharpcli.linalg.trace import SignSamples, signs
from sharpcli.measures import Estimates, Point, mean_and_stderr, weighs_alike


def gradient_noise(at: Point, *, probes: int, tol: float, max_products: int) -> Estimates:
    """The covariance C = (1/n) sum_i g_i g_i^T - g g^T of the gradients g_i of the n measured examples, g
    their mean.

    Traces are means over `probes` vectors of random signs. A product with C passes through the outputs and
    costs as much as a Gauss-Newton product. Refuses fewer than 8 probes, tol <= 0, max_products below 1, and
    networks whose examples share statistics (batch norm over a batch), where no example has a gradient of its
    own.

    Columns:
        noise_trace [loss^2/weight^2, error _stderr]: Tr C, the mean of |g_i - g|^2; error: noise_trace
            ± 2 noise_trace_stderr covers it in at least 95 % of cases, as for the columns below
        noise_lambda_1 [loss^2/weight^2, error _error]: the largest eigenvalue of C, by Lanczos to `tol` or
            `max_products`
        noise_lambda_1_residual [loss^2/weight^2]: |C x - lambda_1 x| for the unit eigenvector x: C has an
            eigenvalue within this distance of noise_lambda_1
        gradient_noise_converged [-]: whether noise_lambda_1 reached `tol`
        noise_scale [examples, error _stderr]: Tr C / |g|^2, the batch size at which the noise of a batch's
            gradient is as large as the gradient; null where g = 0
        noise_alignment [-, error _stderr]: Tr HC / (|H|_F |C|_F), between -1 and 1; 0 where H or C is 0
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
    if not weighs_alike(at.surface):
        raise Refusal(
            "measure=gradient_noise: the loss is no mean over examples, of which each counts alike (weight=, "
            "targets that do not count); leave it out"
        )
    linearization, g = at.curvature.linearization, at.curvature.linearization.grad

    def covariance(V: Tensor) -> Tensor:
        return linearization.second_moment(V) - (V @ g)[:, None] * g

    traces, HzCz, squared_norms = SignSamples(at.w), [], []
    for _ in range(probes):
        z = signs(1, at.w, at.rng)
        product = covariance(z)
        traces.add(z, product)
        Cz, Hz = product[0].double(), linearization.hvp(z)[0].double()
        HzCz.append(float(Hz @ Cz))
        squared_norms.append((float(Hz @ Hz), float(Cz @ Cz)))
    cross_samples = torch.tensor(HzCz, dtype=torch.float64)
    HH, CC = torch.tensor(squared_norms, dtype=torch.float64).T
    if at.warm is not None:
        check_vectors(at.warm, at.w)
    start = at.curvature.start(0) if at.warm is None else at.warm
    # A product is M v - g (g.v), M the second moment: rounding acts on |M| <= |C| + |g|^2.
    squared_gradient = float(g.double().square().sum())
    ritz = extremes(
        Krylov(covariance, start, at.curvature.room),
        1,
        tol,
        max_products,
        tell=at.curvature.tell,
        scale=squared_gradient,
    )
    noise_trace = traces.mean
    noise_trace_stderr = traces.stderr(traces.squared_norm**0.5 + squared_gradient)
    # A C that rounding alone could make is 0, as for a single example.
    is_zero = float(CC.mean()) ** 0.5 <= 2 * trace_rounding(squared_gradient, at.w)
    frobenius_product = 0.0 if is_zero else float((HH.mean() * CC.mean()).sqrt())
    alignment_samples = (
        (cross_samples - cross_samples.mean() * 0.5 * (HH / HH.mean() + CC / CC.mean() - 2))
        / frobenius_product
        if frobenius_product
        else torch.zeros_like(cross_samples)
    )
    values = {
        "noise_trace": noise_trace,
        "noise_trace_stderr": noise_trace_stderr,
        **ritz.columns("noise_lambda"),
        "noise_scale": noise_trace / squared_gradient if squared_gradient else None,
        "noise_scale_stderr": noise_trace_stderr / squared_gradient if squared_gradient else None,
        "noise_alignment": float(cross_samples.mean()) / frobenius_product if frobenius_product else 0.0,
        "noise_alignment_stderr": mean_and_stderr(alignment_samples)[1],  # of a ratio, by the delta method
        "gradient_noise_converged": ritz.converged,
    }
    return Estimates(values, 2 * probes + ritz.products, 1, ritz.vectors)
