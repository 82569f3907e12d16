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
from sharpcli.linalg.accuracy import loss_rounding
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
    """The expected rise of the loss under noise v ~ N(0, sigma^2 I) in the weights, McAllester's bound on the
    error of the perturbed network, and the largest harmless sigma.

    The rise is a mean over antithetic pairs v, -v. With `control`, 1/2 v.Hv is subtracted from each pair's
    rise, and its mean sigma^2 / 2 Tr H, from as many products by XTrace, is added to the mean.

    With probability 1 - `delta` over the m measured examples, pac_bayes_bound is at least the expected 0-1
    error of the *perturbed* network, not of w itself. The grid `sigmas` is fixed beforehand; the union bound
    over it pays for taking the least. Expected errors are means over `samples` noise vectors, the same for
    all sigma, so that the rise of the error is nearly smooth in sigma. Only problems with classes have the
    columns from pac_bayes_bound on.

    A prior must not know the examples: with prior=init it is about the weights that the run's seed drew, also
    where training began elsewhere, as by init_from at weights that may have been trained. Refuses sizes out
    of range, prior=init for weights without a known start,
    and `tested` for a problem without classified test examples.

    Columns:
        pac_bayes_sharpness [loss, error _stderr]: E L(w + v) - L(w), near sigma^2 / 2 Tr H for small sigma;
            error: pac_bayes_sharpness ± 2 pac_bayes_sharpness_stderr covers it in at least 95 % of cases
        pac_bayes_bound [-, error _stderr]: the least over the grid `sigmas` of the expected training error +
            sqrt((KL + ln(2 sqrt(m) |sigmas| / delta)) / 2m), KL = |w - w_prior|^2 / 2 sigma^2, w_prior the
            weights that the seed drew or 0 (`prior`), m the number of measured examples and |sigmas| the
            number of values in the grid; error: that of the expected training error, as of
            pac_bayes_sharpness
        pac_bayes_bound_sigma [weight]: the sigma of the grid at which the bound is least
        pac_bayes_train_error [-]: the expected training error at pac_bayes_bound_sigma; its standard error is
            pac_bayes_bound_stderr
        pac_bayes_test_error [-]: with `tested`, the expected 0-1 error on all test examples at
            pac_bayes_bound_sigma, which pac_bayes_bound exceeds with probability 1 - `delta`, up to sampling
            errors of both
        pac_bayes_bound_talk [-]: a form seen in talks: the expected training error + sqrt(KL / 4m) at
            pac_bayes_bound_sigma. This root, |w - w_prior| / (2 sigma sqrt(2m)), is smaller by sqrt 2 and
            omits the term ln(2 sqrt(m) |sigmas| / delta), so the form is not a valid bound
        sigma_harmless [weight]: the largest sigma whose expected rise of the training error is at most
            `target`, by bisection of log sigma between the least and the largest of `sigmas`; 0 where the
            least of `sigmas` is too large, and the largest of `sigmas` where that is harmless
        sigma_harmless_low [weight]: the lower end of the bracket of sigma_harmless
        sigma_harmless_high [weight]: the upper end of the bracket of sigma_harmless; null where the largest
            of `sigmas` is harmless
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
    rises, quadratic_terms, products = [], [], 0
    for _ in range(pairs):
        v = sigma * at.normal()
        up, down = (float(at.surface.value(at.w + s * v)) - loss for s in (1, -1))
        rises.append((up + down) / 2)
        if control:
            quadratic_terms.append(0.5 * float((v.double() * hvp(v).double()).sum()))
            products += 1
    value, stderr = mean_and_stderr(rises)
    if control:
        value, stderr = mean_and_stderr([rise - c for rise, c in zip(rises, quadratic_terms, strict=True)])
        D = len(at.w)
        room = at.curvature.room
        trace = (
            traces.exact(hvp, at.w)
            if pairs >= D
            else traces.xtrace(hvp, at.w, at.rng, 1e-9, max(pairs, 16), room=room)
        )
        value, stderr = (
            value + 0.5 * sigma**2 * trace.value,
            math.hypot(stderr, 0.5 * sigma**2 * trace.stderr),
        )
        products += trace.products
    stderr = math.hypot(stderr, loss_rounding(loss, at.w))
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
    distance = float((at.w - at.problem.w0 if prior == "init" else at.w).double().square().sum())
    bounds = []
    for sigma in sigmas:
        error, stderr = mean_and_stderr(_errors(at, noise, sigma))
        # Where all samples agree, an example that changes in fewer than 3 of them remains possible.
        stderr = math.hypot(stderr, 1.5 / (m * len(noise)))
        kl = distance / (2 * sigma**2)
        root = math.sqrt((kl + math.log(2 * math.sqrt(m) * len(sigmas) / delta)) / (2 * m))
        bounds.append((error + root, error + math.sqrt(kl / (4 * m)), error, stderr, sigma))
    names = ("bound", "bound_talk", "train_error", "bound_stderr", "bound_sigma")
    return {f"pac_bayes_{name}": value for name, value in zip(names, min(bounds), strict=True)}


def _tested(at: Point, noise: list[Tensor], sigma: float) -> dict[str, float]:
    test_error = at.problem.test_error
    if test_error is None:
        raise Refusal(
            "measure.pac_bayes_sharpness.tested=true: this problem has no test examples with classes"
        )
    # of the same predictors as the bound, normalized as at w: noise moves the statistics too
    of_samples = [test_error(at.surface, at.w + sigma * z) for z in noise]
    return {"pac_bayes_test_error": mean_and_stderr(of_samples)[0]}


def _harmless(at: Point, noise: list[Tensor], low: float, high: float, target: float) -> dict[str, float]:
    unperturbed_error = _errors(at, noise[:1], 0.0)[0]

    def rise(sigma: float) -> float:
        return mean_and_stderr(_errors(at, noise, sigma))[0] - unperturbed_error

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
