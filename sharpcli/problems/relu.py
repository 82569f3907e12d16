"""Two toys for ReLU networks: a teacher of a few neurons (Wu & Su 2023, arXiv:2305.17490) and XOR (Wen, Li &
Ma 2023, arXiv:2307.11007). Without biases their flattest interpolators have a small Barron norm; with biases
they need not generalize."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.problem import Better, Problem
from sharpcli.problems.regression import layout, normal, regression, signs, users_examples
from sharpcli.problems.relu_net import Norm, ReLUNet
from sharpcli.rng import generator

TEST_EXAMPLES = 2000  # drawn beside the n training examples
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
    teacher_depth: int | None,
    bias: bool,
    init: Init,
    scale: float,
    rescale: float,
    instance: int | None,
) -> Problem:
    """A ReLU network f(z) = sum_j a_j relu(w_j.z + b_j) of `width` neurons, on inputs labelled by a teacher
    of a few neurons.

    The n inputs z are uniform on the unit sphere in R^d. The teacher has `neurons` neurons with unit vectors
    w_j, b_j = 0 and a_j = sqrt(d), -sqrt(d), sqrt(d), ... With a `teacher_depth` above 2 (null: 2) it has
    further hidden layers of as many neurons between, whose weights are N(0, 2 / neurons). All of it is drawn
    from `instance`, the seed by default; with data=table inputs and labels are the file's Z and y, and there
    is no test error.

    The network is a `ReLUNet`, which from depth 3 on has further hidden layers of h = `width` units, [h, h],
    and which has the b_j with `bias` alone. Its weights start at `scale` times N(0, 1), divided for
    `init=fan_in` by the square root of the number of a unit's inputs. `rescale` r then multiplies (w_j, b_j)
    by c_j and a_j by 1/c_j, the c_j log-uniform in [1, r] (Dinh et al. 2017, arXiv:1703.04933). `test_error`
    is the mean squared error on 2,000 further inputs over the variance of their labels. Refuses sizes below
    1, depths below 2, a teacher whose labels are all equal (its neurons are dead), and a rescale below 1 or
    above 1 for networks other than those of two layers without norm.
    """
    layers = 2 if teacher_depth is None else teacher_depth
    _check_sizes(d=d, n=n, width=width, depth=depth, neurons=neurons, teacher_depth=layers)
    if data is not None:
        z, y = users_examples(data, 2, "teacher")
        labels, n = y[:, 0], len(z)
    else:
        instance = seed if instance is None else instance
        z = torch.nn.functional.normalize(normal((n + TEST_EXAMPLES, d), instance, "relu-inputs"), dim=1)
        inner = torch.nn.functional.normalize(normal((neurons, d), instance, "relu-teacher"), dim=1)
        outer = d**0.5 * (1.0 - 2.0 * (torch.arange(neurons) % 2)).double()
        hidden = torch.relu(z @ inner.T)
        for layer in range(layers - 2):
            between = normal((neurons, neurons), instance, f"relu-teacher-{layer}") * (2 / neurons) ** 0.5
            hidden = torch.relu(hidden @ between.T)
        labels = hidden @ outer
        if not labels[:n].var(correction=0) > 0 and n > 1:
            raise Refusal(
                f"problem.teacher_depth={layers}: every label is {float(labels[0]):g}, as the teacher's "
                f"neurons are dead; take another problem.instance, or more problem.neurons ({neurons} now)"
            )
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
    """The network of problem=teacher on inputs z in {-1, 1}^d labelled by their parity z_1 z_2, which the
    flattest interpolator with biases can memorize.

    `test_error` is as for problem=teacher, and `test_accuracy` is the share of test inputs at which f has the
    label's sign. Refuses d = 1, and what problem=teacher refuses.
    """
    _check_sizes(d=d, n=n, width=width, depth=depth)
    if d < 2:
        raise Refusal(f"problem.d={d}: the parity is of two coordinates; take at least 2")
    z = signs((n + TEST_EXAMPLES, d), seed if instance is None else instance, "xor")
    net = ReLUNet(d, width, depth, bias, norm)
    better: dict[str, Better] = {"test_error": "lower", "test_accuracy": "higher"}
    return _problem(net, _start(net, init, scale, rescale, seed), z, z[:, 0] * z[:, 1], n, chunk, better)


def _check_sizes(**sizes: int) -> None:
    """Refuses the first size that is below 1, and depths below 2."""
    if too_small := [f"problem.{name}={size}" for name, size in sizes.items() if size < 1]:
        raise Refusal(f"{too_small[0]}: give at least 1")
    if shallow := [name for name in ("depth", "teacher_depth") if sizes.get(name, 2) < 2]:
        raise Refusal(
            f"problem.{shallow[0]}=1: a network has at least two layers; problem=least_squares is the linear "
            f"one"
        )


def _start(net: ReLUNet, init: Init, scale: float, rescale: float, seed: int) -> Tensor:
    """w_0 [D]: random weights of law `init` times `scale`, the neurons rescaled by factors up to `rescale`.
    Refuses a rescale below 1, and one above 1 for other networks than those of two layers without norm."""
    if not rescale >= 1 or (rescale > 1 and (net.depth > 2 or net.norm != "none")):
        raise Refusal(f"problem.rescale={rescale}: at least 1, and only for two layers without norm")
    rng = generator(seed, "start", 0)
    tensors = []
    for name, shape in net.shapes.items():
        tensor = torch.randn(shape, generator=rng, dtype=torch.float64)
        fan_in = 1 if init == "normal" or name.startswith("b") else shape[-1]
        tensors.append((tensor / fan_in**0.5).flatten())
    w0 = scale * torch.cat(tensors)
    if rescale == 1:
        return w0
    c = rescale ** torch.rand(net.width, generator=rng, dtype=torch.float64)
    (inner,), a, b = net.split(w0)
    biases = [shift * c for shift in b if net.bias]
    return torch.cat([(inner * c[:, None]).flatten(), a / c, *biases])


def _problem(
    net: ReLUNet, w0: Tensor, z: Tensor, y: Tensor, n: int, chunk: int, better: dict[str, Better]
) -> Problem:
    """Half squared loss of the network on the first n of the examples z [m, d] and y [m], from w0; the others
    are its test examples."""
    x, labels = z[:n].contiguous(), y[:n].contiguous()

    def scores(w: Tensor) -> dict[str, float]:
        if len(z) == n:
            return {}
        f, test_labels = net(w, z[n:])[:, 0], y[n:]
        return {
            "test_error": float((f - test_labels).square().mean() / test_labels.var()),
            "test_accuracy": float((f.sign() == test_labels.sign()).double().mean()),
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
