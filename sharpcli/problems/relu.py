"""Two toys for ReLU networks: a small teacher (Wu & Su 2023, arXiv:2305.17490) and XOR (Wen, Li & Ma 2023,
arXiv:2307.11007), whose flattest interpolators have a small Barron norm without bias, and need not generalize
with."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.problem import Better, Problem
from sharpcli.problems.regression import layout, normal, regression, signs, users_own
from sharpcli.problems.relu_net import Norm, ReLUNet
from sharpcli.rng import generator

TESTS = 2000  # fresh examples that the test error is over
Init = Literal["normal", "fan_in"]


def teacher(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    width: int,
    depth: int,
    norm: Norm,
    neurons: int,
    bias: bool,
    init: Init,
    scale: float,
    rescale: float,
    instance: int | None,
) -> Problem:
    """f(z) = sum_j a_j relu(w_j.z + b_j) on n inputs uniform on the unit sphere, labelled by a net of
    `neurons` unit vectors with a = +-sqrt(d) in turn; or on one's own inputs and labels, and then without a
    test error.

    The net is `ReLUNet`, from depth 3 on with further hidden layers [h, h]; its weights are drawn as N(0, 1),
    or with `fan_in` over the square root of a unit's inputs, times `scale`. `test_error` is the mean squared
    error on 2,000 fresh inputs over their labels' variance. `rescale` r multiplies (w_j, b_j) by c_j and a_j
    by 1/c_j at the start, the c_j log-uniform in [1, r] (Dinh et al. 2017, arXiv:1703.04933). Refuses sizes
    below 1, and a rescaling below 1 or of other nets than two layers without norm.
    """
    _check_sizes(d=d, n=n, width=width, depth=depth, neurons=neurons)
    if data is not None:
        x, y = users_own(data, 2, "teacher")
        z, labels, n = x, y[:, 0], len(x)
    else:
        instance = seed if instance is None else instance
        z = torch.nn.functional.normalize(normal((n + TESTS, d), instance, "relu-inputs"), dim=1)
        inner = torch.nn.functional.normalize(normal((neurons, d), instance, "relu-teacher"), dim=1)
        outer = d**0.5 * (1.0 - 2.0 * (torch.arange(neurons) % 2)).double()
        labels = torch.relu(z @ inner.T) @ outer
    net = ReLUNet(z.shape[1], width, depth, bias, norm)
    better: dict[str, Better] = {"test_error": "lower"} if len(z) > n else {}
    return _problem(net, _start(net, init, scale, rescale, seed), z, labels, n, chunk, better)


def xor(
    seed: int,
    chunk: int,
    *,
    d: int,
    n: int,
    width: int,
    depth: int,
    norm: Norm,
    bias: bool,
    init: Init,
    scale: float,
    rescale: float,
    instance: int | None,
) -> Problem:
    """The same net on y = x_1 x_2, x in {-1, 1}^d: the parity that a bias lets the flattest interpolator
    memorize.

    `test_error` as for the teacher, here with variance 1, and `test_accuracy` is the share of signs that are
    right.
    """
    _check_sizes(d=d, n=n, width=width, depth=depth)
    if d < 2:
        raise Refusal(f"problem.d={d}: the parity is of two coordinates; take at least 2")
    z = signs((n + TESTS, d), seed if instance is None else instance, "xor")
    net = ReLUNet(d, width, depth, bias, norm)
    better: dict[str, Better] = {"test_error": "lower", "test_accuracy": "higher"}
    return _problem(net, _start(net, init, scale, rescale, seed), z, z[:, 0] * z[:, 1], n, chunk, better)


def _check_sizes(**sizes: int) -> None:
    if bad := [f"problem.{name}={size}" for name, size in sizes.items() if size < 1]:
        raise Refusal(f"{bad[0]}: give at least 1")
    if sizes["depth"] < 2:
        raise Refusal(
            "problem.depth=1: a network has at least two layers; problem=least_squares is the linear one"
        )


def _start(net: ReLUNet, init: Init, scale: float, rescale: float, seed: int) -> Tensor:
    """w_0 [D]: random weights of `init` times `scale`, its neurons rescaled by factors up to `rescale`."""
    if not rescale >= 1 or (rescale > 1 and (net.depth > 2 or net.norm != "none")):
        raise Refusal(f"problem.rescale={rescale}: at least 1, and only for two layers without norm")
    rng = generator(seed, "start", 0)
    pieces = []
    for name, shape in net.shapes.items():
        piece = torch.randn(shape, generator=rng, dtype=torch.float64)
        fan_in = 1 if init == "normal" or name.startswith("b") else shape[-1]
        pieces.append((piece / fan_in**0.5).flatten())
    w0 = scale * torch.cat(pieces)
    if rescale == 1:
        return w0
    c = rescale ** torch.rand(net.width, generator=rng, dtype=torch.float64)
    (inner,), a, b = net.split(w0)
    return torch.cat([(inner * c[:, None]).flatten(), a / c, *(shift * c for shift in b if net.bias)])


def _problem(
    net: ReLUNet, w0: Tensor, z: Tensor, y: Tensor, n: int, chunk: int, better: dict[str, Better]
) -> Problem:
    """Half squared loss of the net on the first n of z [m, d] and y [m]; the others are its test examples."""
    x, labels = z[:n].contiguous(), y[:n].contiguous()

    def scores(w: Tensor) -> dict[str, float]:
        if len(z) == n:
            return {}
        f, right = net(w, z[n:])[:, 0], y[n:]
        return {
            "test_error": float((f - right).square().mean() / right.var()),
            "test_accuracy": float((f.sign() == right.sign()).double().mean()),
        }

    return regression(
        net,
        w0,
        x,
        labels[:, None],
        chunk,
        layout(**net.shapes),
        compiled=net.compiled(x, labels),
        scores=scores,
        better=better,
        norms=lambda w: net.norms(w, x),
        joint=net.norm == "batch",
    )
