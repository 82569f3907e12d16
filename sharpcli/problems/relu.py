"""ReLU networks on toy data: a small teacher (Wu & Su 2023, arXiv:2305.17490) and XOR (Wen, Li & Ma 2023,
arXiv:2307.11007), whose flattest interpolators have a small Barron norm without bias, and need not generalize with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.kernel import Kernel, output, pull
from sharpcli.problem import Problem
from sharpcli.rng import generator
from sharpcli.toys import layout, normal, regression, signs

TESTS = 2000  # fresh examples that the test error is over
Init = Literal["normal", "fan_in"]


def teacher(
    seed: int,
    chunk: int,
    *,
    d: int,
    n: int,
    width: int,
    neurons: int,
    bias: bool,
    init: Init,
    scale: float,
    instance: int | None,
) -> Problem:
    """f(z) = sum_j a_j relu(w_j.z + b_j) on n inputs uniform on the unit sphere, labelled by a net of `neurons` unit
    vectors with a = +-sqrt(d) in turn.

    w is (w_1, ..., w_h [h, d], a [h], b [h] with `bias`), drawn as N(0, 1), or with `fan_in` over the square root of a
    unit's inputs, times `scale`. `test_error` is the mean squared error on 2,000 fresh inputs over their labels' variance.
    `barron_norm` is sum_j |a_j| |(w_j, b_j)|. Refuses sizes below 1.
    """
    _sizes(d=d, n=n, width=width, neurons=neurons)
    instance = seed if instance is None else instance
    z = torch.nn.functional.normalize(normal((n + TESTS, d), instance, "relu-inputs"), dim=1)
    inner = torch.nn.functional.normalize(normal((neurons, d), instance, "relu-teacher"), dim=1)
    outer = d**0.5 * (1.0 - 2.0 * (torch.arange(neurons) % 2)).double()
    return _problem(z, torch.relu(z @ inner.T) @ outer, n, width, bias, init, scale, seed, chunk)


def xor(
    seed: int, chunk: int, *, d: int, n: int, width: int, bias: bool, init: Init, scale: float, instance: int | None
) -> Problem:
    """The same net on y = x_1 x_2, x in {-1, 1}^d: the parity that a bias lets the flattest interpolator memorize.

    `test_error` as for the teacher, here with variance 1, and `test_accuracy` is the share of signs that are right.
    """
    _sizes(d=d, n=n, width=width, neurons=1)
    if d < 2:
        raise Refusal(f"problem.d={d}: the parity is of two coordinates; take at least 2")
    z = signs((n + TESTS, d), seed if instance is None else instance, "xor")
    return _problem(z, z[:, 0] * z[:, 1], n, width, bias, init, scale, seed, chunk)


def _sizes(**sizes: int) -> None:
    if bad := [f"problem.{name}={size}" for name, size in sizes.items() if size < 1]:
        raise Refusal(f"{bad[0]}: give at least 1")


def _problem(z: Tensor, y: Tensor, n: int, width: int, bias: bool, init: Init, scale: float, seed: int, chunk: int) -> Problem:
    d = z.shape[1]
    rng = generator(seed, "start", 0)
    inner = torch.randn(width, d, generator=rng, dtype=torch.float64)
    a = torch.randn(width, generator=rng, dtype=torch.float64)
    b = torch.randn(width, generator=rng, dtype=torch.float64)
    if init == "fan_in":
        inner, a = inner / d**0.5, a / width**0.5
    pieces = [inner.flatten(), a, b] if bias else [inner.flatten(), a]
    shapes = {"inner": (width, d), "a": (width,)} | ({"b": (width,)} if bias else {})

    def split(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inner, rest = w[: width * d].view(width, d), w[width * d :]
        return inner, rest[:width], rest[width:] if bias else torch.zeros(width, dtype=w.dtype)

    def predict(w: Tensor, z: Tensor) -> Tensor:
        inner, a, b = split(w)
        return (torch.relu(z @ inner.T + b) @ a)[:, None]

    def scores(w: Tensor) -> dict[str, float]:
        f, right = predict(w, z[n:])[:, 0], y[n:]
        return {
            "test_error": float((f - right).square().mean() / right.var()),
            "test_accuracy": float((f.sign() == right.sign()).double().mean()),
        }

    def norms(w: Tensor) -> dict[str, float]:
        inner, a, b = split(w)
        return {"barron_norm": float((a.abs() * torch.cat([inner, b[:, None]], 1).norm(dim=1)).sum())}

    kernel = Kernel(
        _output,
        _pull,
        z[:n].contiguous().numpy(),
        y[:n].contiguous().numpy(),
        scratch=width,
    )
    return regression(
        predict,
        scale * torch.cat(pieces),
        z[:n],
        y[:n, None],
        chunk,
        layout(**shapes),
        kernel=kernel,
        scores=scores,
        norms=norms,
    )


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    d, h, f = z.size, c.size, 0.0
    bias = w.size > h * d + h
    for j in range(h):
        s = w[h * d + h + j] if bias else 0.0
        for i in range(d):
            s += w[j * d + i] * z[i]
        c[j] = s
        f += w[h * d + j] * max(s, 0.0)
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    d, h = z.size, c.size
    bias = w.size > h * d + h
    for j in range(h):
        if c[j] > 0.0:
            factor = s * w[h * d + j]
            for i in range(d):
                g[j * d + i] += factor * z[i]
            g[h * d + j] += s * c[j]
            if bias:
                g[h * d + h + j] += factor
