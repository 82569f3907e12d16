"""One contestant answers one question in a process of its own, as its users would run it, and prints its
answers as a JSON line.

`python benchmarks/contest.py WHO QUESTION POINTS DEVICE`, for `side_by_side.py`, which writes the file
POINTS. WHO is sharp, pyhessian, eigenthings or curvlinops; QUESTION is `cold K` (the K largest eigenvalues),
`track K NAME` (the same at the points NAME in turn), `trace METHOD:PROBES` or `density PROBES STEPS`.
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
from sharpcli.problems.minibatches import chunks

EIGENVALUE_TOL = 1e-3  # the relative error of an eigenvalue that is asked for
TRACE_RTOL = 0.02  # the standard error of a trace over the trace that is asked for
MAX_PRODUCTS = 400  # for eigenvalues at one point
Answer = dict[str, Any]  # values, products, and for a trace stderr


class Sharp:
    """This package, on the experiment of the `overrides`."""

    def __init__(self, overrides: list[str], device: str) -> None:
        self.experiment = experiment(*overrides, f"device={device}")
        self.warm: dict[str, Tensor] | None = None

    def at(self, w: Tensor) -> None:
        """Moves to the weights w [D]."""
        self.w = w.to(self.experiment.problem.w0)
        surface = self.experiment.surface_at(self.w)
        self.curvature = Curvature(surface, self.w, 0, 0, self.experiment.basis_bytes)

    def top(self, k: int, warm: bool) -> Answer:
        """The k largest eigenvalues to EIGENVALUE_TOL; `warm` starts from the eigenvectors of the last
        point."""
        start = self.warm if warm else None
        ritz = self.curvature.eigenpairs("hessian", k, EIGENVALUE_TOL, MAX_PRODUCTS, start)
        self.warm = ritz.remembered.saved()
        return {"values": ritz.values.tolist(), "products": ritz.products}

    def trace(self, method: str) -> Answer:
        """The trace to TRACE_RTOL by METHOD of `METHOD:PRODUCTS`, in at most so many products (3,000 by
        default)."""
        name, _, products = method.partition(":")
        rng, product = torch.Generator().manual_seed(0), self.curvature.matvec("hessian")
        trace = getattr(traces, name)(product, self.w, rng, TRACE_RTOL, int(products or 3000))
        return {"values": [trace.value], "stderr": trace.stderr, "products": trace.products}

    def density(self, probes: int, steps: int) -> Answer:
        """The quadrature of the spectral density; its largest node stands for it."""
        quadrature, products = self.curvature.quadrature("hessian", probes, steps)
        return {"values": [float(quadrature.nodes.max())], "products": products}


class Rival:
    """A library of `rivals.py` on the same experiment, at the fastest settings that we know of for it."""

    def __init__(self, who: str, overrides: list[str], device: str) -> None:
        import rivals

        checked = check(compose(overrides), overrides)
        e = experiment(*overrides, f"device={device}")
        x, y = e.problem.examples
        m = e.measure_examples or len(y)
        torch.manual_seed(0)
        module = part(checked.config["model"], [], "model")(tuple(x.shape[1:]), y.shape[1]).to(x.device)
        # PyHessian keeps its graph where all examples are one batch; the others keep none and get chunks
        size = m if who == "pyhessian" else checked.config["chunk"]
        libraries = {
            "pyhessian": rivals.PyHessian,
            "eigenthings": rivals.Eigenthings,
            "curvlinops": rivals.Curvlinops,
        }
        self.library = libraries[who](module, e.problem.surface.loss, list(chunks((x[:m], y[:m]), size)))
        self.who, self.vectors = who, None

    def at(self, w: Tensor) -> None:
        """Moves to the weights w [D]."""
        self.library.at(w.to(self.library.params[0].device))

    def top(self, k: int, warm: bool) -> Answer:
        """The k largest eigenvalues, at the tolerance, in the library's sense of it, that is meant to give
        EIGENVALUE_TOL; `warm` starts from the eigenvectors of the last point where the library takes a
        start."""
        start = self.vectors if warm else None
        if self.who == "pyhessian":
            result = self.library.top(k, EIGENVALUE_TOL / 10, budget=MAX_PRODUCTS)
        elif self.who == "eigenthings":
            result = self.library.top(k, EIGENVALUE_TOL, start)
        else:
            tol = EIGENVALUE_TOL * 10 if k == 1 else EIGENVALUE_TOL
            result = self.library.top(k, tol, start, ncv=arpack_vectors(k, start is not None))
        self.vectors = result.vectors
        return {"values": result.values.tolist(), "products": result.products}

    def trace(self, method: str) -> Answer:
        """The trace by METHOD of `METHOD:PROBES` with so many probes; PyHessian has one method alone."""
        name, probes = method.split(":")
        options = {} if self.who == "pyhessian" else {"method": name}
        result = self.library.trace(int(probes), 0, **options)
        stderr = None if result.residuals is None else float(result.residuals.item())
        return {"values": result.values.tolist(), "stderr": stderr, "products": result.products}

    def density(self, probes: int, steps: int) -> Answer:
        """The quadrature of the spectral density; its largest node stands for it."""
        result = self.library.density(probes, steps, 0)
        return {"values": [float(result.values.max())], "products": result.products}


def arpack_vectors(k: int, has_start: bool) -> int:
    """The number of vectors with which ARPACK took the fewest products for k eigenvalues."""
    if k > 1:
        return 3 * k
    return 3 if has_start else 10


def timed(call: Callable[[], Answer]) -> Answer:
    """The answer of a call, and the `seconds` that it took, with the device idle at the beginning and the
    end."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    answer = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - started, **answer}


def answers(contestant: Sharp | Rival, question: str, saved: dict[str, Any]) -> list[Answer]:
    """The timed answers to a question: three for `cold`, one for each point for `track`, else one."""
    name, *arguments = question.split(" ")
    last = saved["points"][-1]
    if name in ("cold", "track"):
        points = [last] * 3 if name == "cold" else saved[arguments[1]]
        results = []
        for w in points:
            contestant.at(w)
            results.append(timed(lambda: contestant.top(int(arguments[0]), warm=name == "track")))
        return results
    contestant.at(last)
    contestant.density(1, 2)  # products that do not count, for what a machine does at its first products
    contestant.at(last)
    if name == "trace":
        return [timed(lambda: contestant.trace(arguments[0]))]
    return [timed(lambda: contestant.density(int(arguments[0]), int(arguments[1])))]


def main() -> None:
    """Prints the answers."""
    who, question, file, device = sys.argv[1:]
    saved = torch.load(file, weights_only=True)
    overrides = saved["overrides"]
    contestant = Sharp(overrides, device) if who == "sharp" else Rival(who, overrides, device)
    print(json.dumps(answers(contestant, question, saved)))


if __name__ == "__main__":
    main()
