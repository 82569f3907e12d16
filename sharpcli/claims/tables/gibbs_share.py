"""How long noise of the same size in every direction stays at each part of a curve of minima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy.integrate import quad

from sharpcli.claims.tables import Array

HALVES = ((-8.0, 0.0), (0.0, 8.0))  # of u: beyond them its law has no weight that counts


def gibbs_share(
    *,
    noise: Literal["isotropic", "curved"],
    tilt: float,
    decay: float,
    temperature: float,
    lr: float,
    steps: int,
    particles: int,
    seeds: list[int],
) -> list[dict[str, Any]]:
    """A row for each seed: `particles` runs of Langevin dynamics w <- w - lr grad L + sqrt(2 lr T) xi on L(u,
    v) = 1/2 v^2 h(u) + decay/2 (u^2 + v^2), h(u) = 2 + (u^2 - 1)^2 + tilt u, whose minima without decay are
    the (u, 0), with det H = h(u) along v: the problem two_well, in numpy for all particles at once, where
    replicas of a run would draw their noise one by one. xi is N(0, I), or, `curved`, along v N(0, h(u)):
    noise in proportion to the Hessian, as label noise has.

    The law exp(-L/T) of `isotropic` noise has the marginal exp(-decay u^2 / 2T) (h(u) + decay)^(-1/2), by
    integration over v: the volume of the low loss at u is in proportion to det(H)^(-1/2) (Laplace's
    approximation, which is exact here).

    With `curved` noise v^2 is T h / (h + decay) on average at every u, so that u drifts at -T h' h / (2 h + 2
    decay), down the trace of the Hessian; to leading order in T its law is exp(-decay u^2 / 2T - (h - decay
    log(h + decay)) / 2).

    Columns: `left`, the share of particles with u < 0 after all steps; `volume`, `no_volume` and `no_root`,
    what the marginal predicts for it with the power -1/2, 0 and -1 of the determinant, and `trace`, what the
    law of `curved` noise does; `square`, the mean of u^2, and `volume_square` and `trace_square`, its
    predictions.
    """
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        u, v = rng.uniform(-2, 2, particles), np.zeros(particles)
        for _ in range(steps):
            xi = rng.normal(size=(2, particles)) * (2 * lr * temperature) ** 0.5
            if noise == "curved":
                xi[1] *= np.sqrt(_height(u, tilt))
            slope_u, slope_v = _gradient(u, v, tilt, decay)
            u, v = u - lr * slope_u + xi[0], v - lr * slope_v + xi[1]
        rows.append(
            {"seed": seed, "left": float((u < 0).mean()), "square": float((u * u).mean())}
            | _predicted(tilt, decay, temperature)
        )
    return rows


def _height(u: Array, tilt: float) -> Array:
    return 2 + (u * u - 1) ** 2 + tilt * u


def _gradient(u: Array, v: Array, tilt: float, decay: float) -> tuple[Array, Array]:
    """The derivatives of L in u and in v."""
    return 0.5 * v * v * (4 * u * (u * u - 1) + tilt) + decay * u, v * (_height(u, tilt) + decay)


def _predicted(tilt: float, decay: float, temperature: float) -> dict[str, float]:
    """The columns that are predictions, by quadrature."""

    def share_and_square(law: Callable[[Array], Any]) -> tuple[float, float]:
        def weight(u: float) -> float:
            return float(np.exp(-decay * u * u / (2 * temperature)) * law(_height(np.array(u), tilt)))

        left, right = (quad(weight, *half, limit=500)[0] for half in HALVES)
        squares = sum(quad(lambda u: u * u * weight(u), *half, limit=500)[0] for half in HALVES)
        return left / (left + right), squares / (left + right)

    volume, volume_square = share_and_square(lambda h: (h + decay) ** -0.5)
    trace, trace_square = share_and_square(lambda h: np.exp(-(h - decay * np.log(h + decay)) / 2))
    return {
        "volume": volume,
        "volume_square": volume_square,
        "trace": trace,
        "trace_square": trace_square,
        "no_volume": share_and_square(lambda h: 1.0)[0],
        "no_root": share_and_square(lambda h: 1 / (h + decay))[0],
    }
