"""PAC-Bayes: the loss's expected rise under Gaussian noise, McAllester's bound, and the largest noise that is
harmless.

McAllester 1999 (the form of Maurer 2004, arXiv:cs/0411099); Dziugaite & Roy 2017, arXiv:1703.11008; Neyshabur
et al. 2017; Dziugaite et al. 2020, arXiv:2010.11924.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.linalg import trace as traces
from sharpcli.measures import Estimates, Point, mean_and_stderr

BISECTIONS = 8


def pac_bayes_sharpness(
    at: Point,
    *,
    sigma: float,
    pairs: int,
    control: bool,
    prior: Literal["init", "zero"],
    delta: float,
    sigmas: list[float],
    samples: int,
    tested: bool,
    target: float,
) -> Estimates:
    """`pac_bayes_sharpness` = E over v ~ N(0, sigma^2 I) of L(w + v) - L(w) (-> sigma^2 / 2 Tr H), from
    antithetic pairs; for `control` less 1/2 v.Hv, whose mean sigma^2 / 2 Tr H is added back from as many
    products by XTrace.

    `pac_bayes_bound` >= the expected 0-1 error of the *perturbed* network, with probability 1 - delta over
    the m measured examples: its training error + sqrt((KL + ln(2 sqrt(m) |sigmas| / delta)) / 2m), KL = |w -
    w_prior|^2 / 2 sigma^2, the least over the grid `sigmas`, which is fixed beforehand and paid for by the
    union bound; `pac_bayes_bound_sigma` is where. The training error is a mean over `samples` networks
    (`pac_bayes_train_error`, `pac_bayes_bound_stderr`), and so, to be `tested` (all examples are scored),
    `pac_bayes_test_error`, which is what is bounded. `pac_bayes_bound_talk` uses the talk's root, sqrt(KL /
    4m) = |w - w_prior| / (2 sigma sqrt(2m)): it is smaller by sqrt 2 and omits the term ln(2 sqrt(m) |sigmas|
    / delta), so it is not a valid bound. `sigma_harmless`: the largest sigma whose expected rise of the
    training error stays under `target`, bracketed by `sigma_harmless_low` and `_high`; common noise, so that
    the rise hardly jitters. Bound and sigma need classes. Refuses sizes out of range.
    """
    if not sigma > 0 or pairs < 4 or samples < 2 or not 0 < delta < 1 or not 0 < target < 1:
        raise Refusal(
            f"measure.pac_bayes_sharpness: sigma={sigma}, pairs={pairs}, samples={samples}, delta={delta}, "
            f"target={target}; "
            "sigma above 0, at least 4 pairs and 2 samples, delta and target between 0 and 1"
        )
    if not sigmas or min(sigmas) <= 0:
        raise Refusal(f"measure.pac_bayes_sharpness.sigmas={sigmas}: a grid of noise sizes, each above 0")
    if prior == "init" and at.init is None:
        raise Refusal(
            "measure.pac_bayes_sharpness.prior=init: these weights' start is not known; take prior=zero"
        )
    loss, hvp = float(at.surface.value(at.w)), at.curvature.matvec("hessian")
    rises, curved, products = [], [], 0
    for _ in range(pairs):
        v = sigma * at.normal()
        up, down = (float(at.surface.value(at.w + s * v)) - loss for s in (1, -1))
        rises.append((up + down) / 2)
        if control:
            curved.append(0.5 * float((v.double() * hvp(v).double()).sum()))
            products += 1
    value, stderr = mean_and_stderr(rises)
    if control:
        value, stderr = mean_and_stderr([rise - c for rise, c in zip(rises, curved, strict=True)])
        D = len(at.w)
        trace = (
            traces.exact(hvp, at.w) if pairs >= D else traces.xtrace(hvp, at.w, at.rng, 1e-9, max(pairs, 16))
        )
        value, stderr = (
            value + 0.5 * sigma**2 * trace.value,
            math.hypot(stderr, 0.5 * sigma**2 * trace.stderr),
        )
        products += trace.products
    values = {"pac_bayes_sharpness": value, "pac_bayes_sharpness_stderr": stderr}
    gradients = 2 * pairs / 3
    if at.problem.error is not None:
        noise = [at.normal() for _ in range(samples)]
        values |= _bound(at, noise, sigmas, delta, prior) | _harmless(
            at, noise, min(sigmas), max(sigmas), target
        )
        if tested:
            values |= _tested(at, noise, values["pac_bayes_bound_sigma"])
        gradients += samples * (len(sigmas) + BISECTIONS + 3) / 3
    return Estimates(values, products, gradients)


def _bound(at: Point, noise: list[Tensor], sigmas: list[float], delta: float, prior: str) -> dict[str, float]:
    m = at.surface.examples
    distance = float(
        (at.w - at.init if prior == "init" and at.init is not None else at.w).double().square().sum()
    )
    bounds = []
    for sigma in sigmas:
        error, stderr = mean_and_stderr(_errors(at, noise, sigma))
        kl = distance / (2 * sigma**2)
        root = math.sqrt((kl + math.log(2 * math.sqrt(m) * len(sigmas) / delta)) / (2 * m))
        bounds.append((error + root, error + math.sqrt(kl / (4 * m)), error, stderr, sigma))
    names = ("bound", "bound_talk", "train_error", "bound_stderr", "bound_sigma")
    return {f"pac_bayes_{name}": value for name, value in zip(names, min(bounds), strict=True)}


def _tested(at: Point, noise: list[Tensor], sigma: float) -> dict[str, float]:
    scores = [at.problem.scores(at.w + sigma * z) for z in noise]
    if "test_accuracy" not in scores[0]:
        raise Refusal(
            "measure.pac_bayes_sharpness.tested=true: this problem has no test examples with classes"
        )
    return {
        "pac_bayes_test_error": mean_and_stderr([1 - of_sample["test_accuracy"] for of_sample in scores])[0]
    }


def _harmless(at: Point, noise: list[Tensor], low: float, high: float, target: float) -> dict[str, float]:
    still = _errors(at, noise[:1], 0.0)[0]

    def rise(sigma: float) -> float:
        return mean_and_stderr(_errors(at, noise, sigma))[0] - still

    if rise(low) > target:
        return {"sigma_harmless": 0.0, "sigma_harmless_low": 0.0, "sigma_harmless_high": low}
    if rise(high) <= target:
        return {"sigma_harmless": high, "sigma_harmless_low": high, "sigma_harmless_high": math.inf}
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if rise(middle) <= target else (low, middle)
    return {"sigma_harmless": math.sqrt(low * high), "sigma_harmless_low": low, "sigma_harmless_high": high}


def _errors(at: Point, noise: list[Tensor], sigma: float) -> list[float]:
    assert at.problem.error is not None
    return [at.problem.error(at.surface, at.w + sigma * z) for z in noise]
