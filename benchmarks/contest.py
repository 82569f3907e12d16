"""One contestant on one question, in a process of its own as its users would run it: prints a JSON line.

`python benchmarks/contest.py WHO QUESTION POINTS DEVICE`, with POINTS a file that `side_by_side.py` writes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from common import experiment
from torch import Tensor

from sharpcli.config.build import part
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.landscape.curvature import Curvature
from sharpcli.linalg import trace as traces
from sharpcli.problems.problem import chunks

TOL, RTOL = 1e-3, 0.02


class Sharp:
    """This package."""

    def __init__(self, words: list[str], device: str) -> None:
        self.e = experiment(*words, f"device={device}")
        self.warm: Tensor | None = None

    def at(self, w: Tensor) -> None:
        """The point to measure at."""
        self.w = w.to(self.e.problem.w0)
        self.c = Curvature(self.e.surface_at(self.w), self.w, 0, 0, self.e.basis_bytes)

    def top(self, k: int, warm: bool) -> dict[str, Any]:
        """The k largest eigenvalues to TOL."""
        ritz = self.c.eigenpairs("hessian", k, TOL, 400, self.warm if warm else None)
        self.warm = ritz.vectors
        return {"values": ritz.values.tolist(), "products": ritz.products}

    def trace(self, method: str) -> dict[str, Any]:
        """The trace to RTOL, by Hutch++ or XTrace, or as far as the products of the question lead."""
        rng = torch.Generator().manual_seed(0)
        method, _, most = method.partition(":")
        found = getattr(traces, method)(self.c.matvec("hessian"), self.w, rng, RTOL, int(most or 3000))
        return {"values": [found.value], "stderr": found.stderr, "products": found.products}

    def density(self, probes: int, steps: int) -> dict[str, Any]:
        """The quadrature."""
        found, products = self.c.quadrature("hessian", probes, steps)
        return {"values": [float(found.nodes.max())], "products": products}


class Other:
    """A library of `rivals.py`, at the fastest settings found for it."""

    def __init__(self, who: str, words: list[str], device: str) -> None:
        import rivals

        checked = check(compose(words), words)
        e = experiment(*words, f"device={device}")
        x, y = e.problem.examples
        m = e.measure_examples or len(y)
        torch.manual_seed(0)
        module = part(checked.config["model"], [], "model")(tuple(x.shape[1:]), y.shape[1]).to(x.device)
        # one batch where a library then keeps its graph; hessian-eigenthings and curvlinops take chunks as
        # well
        size = m if who == "pyhessian" else checked.config["chunk"]
        kinds = {
            "pyhessian": rivals.PyHessian,
            "eigenthings": rivals.Eigenthings,
            "curvlinops": rivals.Curvlinops,
        }
        self.it = kinds[who](module, e.problem.surface.loss, list(chunks((x[:m], y[:m]), size)))
        self.who, self.vectors = who, None

    def at(self, w: Tensor) -> None:
        """The point to measure at."""
        self.it.at(w.to(self.it.params[0].device))

    def top(self, k: int, warm: bool) -> dict[str, Any]:
        """The k largest eigenvalues to TOL: of its error, or of what the library calls tolerance where that
        is laxer."""
        start = self.vectors if warm else None
        if self.who == "pyhessian":
            found = self.it.top(k, TOL / 10, budget=400)
        elif self.who == "eigenthings":
            found = (
                self.it.top(k, TOL, start, steps=None)
                if not warm or start is None
                else self.it.top(k, TOL, start)
            )
        else:
            ncv = {(1, True): 3, (1, False): 10}.get((k, warm and start is not None), 3 * k if k > 1 else 10)
            found = self.it.top(k, TOL * 10 if k == 1 else TOL, start, ncv=ncv)
        self.vectors = found.vectors
        return {"values": found.values.tolist(), "products": found.products}

    def trace(self, method: str) -> dict[str, Any]:
        """A trace with as many probes as the question gives it."""
        method, probes = method.split(":")
        extra = {} if self.who == "pyhessian" else {"method": method}
        found = self.it.trace(int(probes), 0, **extra)
        stderr = None if found.residuals is None else float(found.residuals.item())
        return {"values": found.values.tolist(), "stderr": stderr, "products": found.products}

    def density(self, probes: int, steps: int) -> dict[str, Any]:
        """The quadrature."""
        found = self.it.density(probes, steps, 0)
        return {"values": [float(found.values.max())], "products": found.products}


def clock(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a call returns and the seconds it took, the device idle before and after."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    out = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - started, **out}


def main() -> None:
    """See the top."""
    who, question, file, device = sys.argv[1:]
    saved = torch.load(file, weights_only=True)
    one = Sharp(saved["words"], device) if who == "sharp" else Other(who, saved["words"], device)
    name, *more = question.split(" ")
    out = []
    if name == "cold":
        for _ in range(3):
            one.at(saved["points"][-1])
            out.append(clock(lambda: one.top(int(more[0]), warm=False)))
    if name == "track":
        for w in saved[more[1]]:
            one.at(w)
            out.append(clock(lambda: one.top(int(more[0]), warm=True)))
    if name == "trace":
        one.at(saved["points"][-1])
        one.density(1, 2)  # warms the machine up
        one.at(saved["points"][-1])
        out.append(clock(lambda: one.trace(more[0])))
    if name == "density":
        one.at(saved["points"][-1])
        one.density(1, 2)
        one.at(saved["points"][-1])
        out.append(clock(lambda: one.density(int(more[0]), int(more[1]))))
    print(json.dumps(out))


main()
