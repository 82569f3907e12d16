"""In what share of cases the errors that the measures state cover the truth, for every measure with an error,
in float32 and float64.

`python benchmarks/coverage.py [SEEDS]` prints the table of docs/measure.md; 10 seeds take about half an hour
on two cores. The truth is computed from the dense Hessian in float64 at the same weights, where that is
possible, else as a mean over many more samples. Networks of some hundred weights at the start of training and
after 30 and 600 steps; each is measured from SEEDS random starts, with the settings of conf/measure but for
those in `SETTINGS`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean

import torch
from common import experiment
from torch import Tensor

from sharpcli.engine.experiment import Experiment
from sharpcli.engine.measuring import measure
from sharpcli.landscape.curvature import Curvature
from sharpcli.linalg import trace as traces
from sharpcli.measures import log_det
from sharpcli.optimizers import preconditioner

NETWORKS = {  # words of the network, step size
    "mlp, half_squared": ("model.widths=[7] model.activation=tanh loss=half_squared", 0.05),
    "mlp, cross_entropy": ("model.widths=[7] model.activation=relu loss=cross_entropy", 0.2),
    "cnn, cross_entropy": ("model=cnn model.widths=[4,6] loss=cross_entropy", 0.1),
}
STEPS = (0, 30, 600)
SIGMAS = (0.01, 0.1)
SETTINGS = (
    "data.train_examples=60 method=sgd optimizer=adam measure.sharpness.k=3 measure.sharpness.least=true "
    "measure.gauss_newton.k=2 measure.preconditioned_sharpness.k=2 measure.batch_sharpness.batch_size=1 "
    "measure.adaptive_sharpness.steps=1 measure.pac_bayes_sharpness.sigmas=[0.01,0.1]"
)
MEASURES = (
    "sharpness",
    "gauss_newton",
    "preconditioned_sharpness",
    "trace",
    "relative_flatness",
    "density",
    "log_det",
    "gradient_noise",
    "adaptive_sharpness",
    "pac_bayes_sharpness",
    "batch_sharpness",
    "directional_sharpness",
    "critical_sharpness",
)
MANY = 1000  # samples behind a truth that no dense matrix gives


@dataclass
class Share:
    """How many of the values of a column were covered, and the largest deviation in units of the half width
    that is stated."""

    covered: int = 0
    cases: int = 0
    worst: float = 0.0
    widths: list[float] = field(default_factory=list)  # half widths over |truth|

    def add(self, value: float, half_width: float, truth: float) -> None:
        """Takes in one value with its stated half width."""
        self.cases += 1
        self.covered += abs(value - truth) <= half_width
        self.worst = max(self.worst, abs(value - truth) / half_width) if half_width else self.worst
        self.widths.append(half_width / max(abs(truth), 1e-300))


def points(words: str, lr: float, *more: str) -> Iterator[tuple[Experiment, Experiment, Tensor]]:
    """A network in float32 and in float64, at weights of its training in float32."""
    names = f"measure=[{','.join(MEASURES)}]"
    single, double = (
        experiment(*words.split(), *SETTINGS.split(), names, *more, f"problem.dtype={dtype}")
        for dtype in ("float32", "float64")
    )
    w, momentum, done = single.problem.w0, torch.zeros_like(single.problem.w0), 0
    for step in STEPS:
        for _ in range(step - done):
            momentum = 0.9 * momentum + single.problem.surface.grad(w)
            w = w - lr * momentum
        done = step
        yield single, double, w


def truths(e: Experiment, w: Tensor, state: tuple[Tensor, ...], rng: torch.Generator) -> dict[str, float]:
    """The exact value of each column with an error, at w in float64."""
    surface = e.problem.at(w)
    curvature = Curvature(surface, w, 0, 0, 10**9)
    H, G = curvature.dense("hessian"), curvature.dense("gauss_newton")
    lam, mu = torch.linalg.eigvalsh(H), torch.linalg.eigvalsh(G)
    out = {f"lambda_{i}": lam[-i] for i in (1, 2, 3)} | {"lambda_min": lam[0]}
    out |= {f"ggn_lambda_{i}": mu[-i] for i in (1, 2)} | {"ggn_trace": G.trace(), "trace": H.trace()}
    out |= {"density_mean": H.trace() / len(w), "density_square": H.square().sum() / len(w)}
    above = lam[lam > 1e-6 * lam.abs().max()]
    out |= {"log_det": above.log().sum(), "rank": len(above)}
    metric = preconditioner(e.optimizer, state, e.lr)
    assert metric is not None
    root = metric[0].rsqrt()
    nu = torch.linalg.eigvalsh(root[:, None] * H * root)
    out |= {f"preconditioned_lambda_{i}": nu[-i] for i in (1, 2)}
    scaled = w.abs()[:, None] * H * w.abs()
    out |= {"adaptive_lambda_1": torch.linalg.eigvalsh(scaled)[-1], "adaptive_trace": scaled.trace()}
    out |= _along(e, w, state, H)
    out |= _of_last_matrix(e, w, H) | _of_examples(e, w, H)
    # L(w + v) - L(w) - g.v - v.Hv / 2 has little variance, and the means of g.v and v.Hv are known
    loss, g = float(surface.value(w)), surface.grad(w)

    def rise(size: Tensor | float) -> float:
        rises = []
        for _ in range(MANY):
            v = size * torch.randn(len(w), generator=rng, dtype=torch.float64)
            rises.append(float(surface.value(w + v)) - loss - float(g @ v) - 0.5 * float(v @ H @ v))
        return fmean(rises) + 0.5 * float((H.diagonal() * size**2).sum())

    def bound(sigma: float) -> float:
        assert e.problem.error is not None
        noise = (sigma * torch.randn(len(w), generator=rng, dtype=torch.float64) for _ in range(MANY))
        kl, m = float((w - e.problem.w0).square().sum()) / (2 * sigma**2), surface.examples
        root = math.sqrt((kl + math.log(2 * math.sqrt(m) * len(SIGMAS) / 0.05)) / (2 * m))
        return fmean(e.problem.error(surface, w + v) for v in noise) + root

    out |= {"pac_bayes_bound": min(map(bound, SIGMAS))}
    out |= {"adaptive_average": rise(0.05 * w.abs()), "pac_bayes_sharpness": rise(0.01)}
    return {name: float(value) for name, value in out.items()}


def _along(e: Experiment, w: Tensor, state: tuple[Tensor, ...], H: Tensor) -> dict[str, Tensor]:
    """The curvature along the gradient, and the critical step along the optimizer's update, by bisection."""
    surface = e.problem.at(w)
    g = surface.grad(w)
    after, _ = e.optimizer.step(w, state, surface, e.lr)
    d, start = (w - after) / e.lr, float(surface.value(w))
    low, high = 0.0, 1e-6
    while float(surface.value(w - high * d)) < start:
        low, high = high, 1.1 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(surface.value(w - middle * d)) < start else (low, middle)
    return {
        "directional_curvature": g @ H @ g,
        "directional_sharpness": g @ H @ g / (g @ g),
        "critical_sharpness": torch.tensor(2 / high, dtype=torch.float64),
    }


def _of_last_matrix(e: Experiment, w: Tensor, H: Tensor) -> dict[str, Tensor]:
    tensors = e.problem.tensors(w)
    last = max(i for i, t in enumerate(tensors) if t.ndim > 1)
    first, W = sum(t.numel() for t in tensors[:last]), tensors[last].flatten(1)
    d, m = W.shape
    block = H[first : first + d * m, first : first + d * m].view(d, m, d, m)
    return {"relative_flatness": ((W @ W.T) * block.diagonal(dim1=1, dim2=3).sum(-1)).sum()}


def _of_examples(e: Experiment, w: Tensor, H: Tensor) -> dict[str, Tensor]:
    """Gradient noise and, with batches of one example, batch sharpness."""
    surface = e.problem.at(w)
    x, y = surface.joined
    gradients, quotients = [], []
    for i in range(len(y)):
        linearization = surface.on([(x[i : i + 1], y[i : i + 1])]).linearize(w)
        g = linearization.grad
        gradients.append(g)
        quotients.append(g @ linearization.hvp(g) / (g @ g))
    g_i = torch.stack(gradients)
    g = g_i.mean(0)
    C = (g_i - g).T @ (g_i - g) / len(y)
    return {
        "noise_trace": C.trace(),
        "noise_lambda_1": torch.linalg.eigvalsh(C)[-1],
        "noise_scale": C.trace() / (g @ g),
        "noise_alignment": (H * C).sum() / (H.norm() * C.norm()),
        "batch_sharpness": torch.stack(quotients).mean(),
    }


def half_width(row: dict[str, float], name: str) -> float | None:
    """The stated half width of the interval of a column: its error, or two of its standard errors."""
    if row.get(f"{name}_error") is not None:
        return row[f"{name}_error"]
    return 2 * row[f"{name}_stderr"] if row.get(f"{name}_stderr") is not None else None


def covered(seeds: int, networks: dict[str, tuple[str, float]]) -> dict[tuple[str, str], Share]:
    """The shares by column and dtype."""
    shares: dict[tuple[str, str], Share] = {}
    for words, lr in networks.values():
        for single, double, w in points(words, lr):
            rng = torch.Generator().manual_seed(0)
            state = single.optimizer.step(w, single.optimizer.init(w), single.problem.surface, lr)[1]
            state = tuple(part.double() for part in state)
            truth = truths(double, w.double(), state, rng)
            for dtype, e in (("float32", single), ("float64", double)):
                at, its_state = w.to(e.problem.w0), tuple(part.to(e.problem.w0) for part in state)
                for seed in range(seeds):
                    rows = measured(replace(e, seed=seed), at, its_state)
                    for name, row in rows:
                        column = name.partition(", ")[0]
                        value, width = row.get(column), half_width(row, column)
                        if value is not None and width is not None:
                            shares.setdefault((name, dtype), Share()).add(value, width, truth[column])
    return shares


def measured(e: Experiment, w: Tensor, state: tuple[Tensor, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    """Each column with an error, with the row that holds it: of all measures with their settings, of the
    trace by each method, and of log_det by quadrature."""
    row, _ = measure(e, w, 1, {}, MEASURES, state)
    columns = {key.removesuffix("_stderr").removesuffix("_error") for key in row}
    yield from (
        (name, row) for name in sorted(columns) if half_width(row, name) is not None and name != "trace"
    )
    hvp = e.surface_at(w).linearize(w).hvp
    for method in ("hutchinson", "hutchpp", "xtrace"):
        rng = torch.Generator().manual_seed(e.seed)
        found = traces.estimate(method, hvp, w, rng, 0.05, 100)
        yield f"trace, {method}", {"trace": found.value, "trace_stderr": found.stderr}
    dense, log_det.DENSE = log_det.DENSE, 0
    by_quadrature, _ = measure(e, w, 1, {}, ["log_det"], state)
    log_det.DENSE = dense
    yield from ((f"{name}, quadrature", by_quadrature) for name in ("log_det", "rank"))


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    shares = covered(seeds, NETWORKS)
    print("| column | float32 | float64 | half width over the value, median |\n|---|---|---|---|")
    for name in sorted({name for name, _ in shares}):
        cells = [shares[name, dtype] for dtype in ("float32", "float64")]
        widths = sorted(cells[0].widths)
        shown = [f"{c.covered} of {c.cases}, {c.worst:.2g}" for c in cells]
        print(f"| `{name}` | {shown[0]} | {shown[1]} | {widths[len(widths) // 2]:.1g} |")


if __name__ == "__main__":
    main()
