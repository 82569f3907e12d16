"""The stochastic differential equation of SGD, solved step by step; Li, Tai & E 2017, arXiv:1511.06251, and
Li, Malladi & Arora 2021, arXiv:2102.12470."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.hessian_products import vjp
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


def sde_noise(
    surface: LossSurface,
    w: Tensor,
    rng: Stream,
    time: float | None,
    *,
    sgd_lr: float,
    dt: float,
    batch: int,
    delta: float,
    sampling: bool,
) -> LossSurface:
    """L(w) + xi.w with xi = sqrt(sgd_lr / dt) Sigma(w_t)^(1/2) N(0, I) [D]: a step of gradient descent on it
    with lr = `dt` is a step of the Euler-Maruyama scheme for dX = -grad L dt + sqrt(sgd_lr) Sigma^(1/2) dW,
    the stochastic differential equation of SGD with learning rate `sgd_lr`.

    Sigma = (1/batch) [(delta^2/n) sum_i grad f_i grad f_i^T + Cov_i(r_i grad f_i)], r_i the derivative of the
    loss of example i in its outputs (f_i - y_i for half squared loss, softmax(f_i) - y_i for cross-entropy):
    the first term is, for half squared loss, of label noise of size `delta`, the second, which `sampling`
    adds, of drawing the examples.
    xi = J^T zeta, J the Jacobian of the n outputs and zeta random numbers in output space, costs one
    gradient. Refuses sgd_lr and dt that are not above 0, delta < 0 and batch < 1, and a `time` of the step
    that is not dt: under a schedule, or of a rule whose step takes another time.
    """
    if not (sgd_lr > 0 and dt > 0 and delta >= 0) or batch < 1:
        raise Refusal(
            f"sgd_lr={sgd_lr} dt={dt} delta={delta} batch={batch}: above 0, above 0, at least 0, at least 1"
        )
    if time is None or not math.isclose(time, dt, rel_tol=1e-9):
        of_step = "follows no gradient flow" if time is None else f"takes the time {time:g}"
        raise Refusal(
            f"objective.sde_noise.dt={dt:g}: a step of this run {of_step}, and its noise would be of another "
            f"size; take optimizer=gd with schedule=constant and dt equal to lr"
        )
    x, y = surface.as_one
    n = len(y)
    w_t = w.detach().requires_grad_()
    f = surface.exact.predict(w_t, x)
    zeta = delta * torch.from_numpy(rng.normal(2 * f.numel())[: f.numel()]).to(f).view(f.shape)
    if sampling:
        draws = torch.from_numpy(rng.normal(2 * f.numel() + n)[-n:]).to(f)
        at = f.detach().requires_grad_()
        (residuals,) = torch.autograd.grad(n * surface.exact.loss(at, y), at)
        zeta = zeta + residuals * (draws - draws.mean()).view(-1, *[1] * (f.ndim - 1))
    xi = vjp(f, w_t, zeta)
    xi = (sgd_lr / (dt * n * batch)) ** 0.5 * xi
    return surface.plus(lambda u: xi @ u)
