"""What `sharp.memory` states and what `sharp.measure` then takes, on GPT-2s of several sizes.

    python benchmarks/memory.py            # 3 million weights at 4 and 128 sequences
    python benchmarks/memory.py --large    # 25 million weights at 4 sequences: minutes

Each measurement runs in a process of its own; the peak is that of its resident memory above what it was with
the model built.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from own_loop import Peak
from torch import nn

import sharpcli as sharp

SMALL = [(4, 256, n, measure) for n in (4, 128) for measure in ("sharpness", "trace")]
LARGE = [(8, 512, 4, "sharpness"), (8, 512, 4, "trace")]


def one(layers: int, width: int, sequences: int, measure: str) -> None:
    """States, measures, and prints a line."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": layers, "n_embd": width, "n_head": 8, "vocab_size": 200, "n_positions": 64}
    net = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    ids = torch.randint(0, 200, (sequences, 64))

    def loss(outputs: object, tokens: torch.Tensor) -> torch.Tensor:
        logits = outputs.logits  # type: ignore[attr-defined]
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    if sys.argv[-1] == "stated":
        print(sharp.memory(net, loss, (ids, ids)).total)
        return
    with Peak() as peak:
        began = time.perf_counter()
        found = sharp.measure(net, loss, (ids, ids), [measure])
    weights = sum(p.numel() for p in net.parameters())
    print(weights, peak.most, found[f"{measure}_products"], time.perf_counter() - began)


def main() -> None:
    """A table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    print(
        f"{'weights':>12}{'sequences':>11}{'measure':>11}{'stated GB':>11}{'taken GB':>10}{'ratio':>7}",
        end="",
    )
    print(f"{'products':>10}{'seconds':>9}")
    for case in LARGE if parser.parse_args().large else SMALL:
        told = [
            subprocess.run(
                [sys.executable, str(Path(__file__)), *map(str, case), what],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            for what in ("stated", "taken")
        ]
        stated = float(told[0][-1])
        weights, taken, products, seconds = map(float, told[1][-4:])
        row = f"{weights:12,.0f}{case[2]:11}{case[3]:>11}{stated / 1e9:11.2f}{taken / 1e9:10.2f}"
        print(f"{row}{stated / taken:7.2f}{products:10.0f}{seconds:9.1f}", flush=True)


if __name__ == "__main__":
    if sys.argv[-1] in ("stated", "taken"):
        one(*map(int, sys.argv[1:4]), sys.argv[4])
    else:
        main()
