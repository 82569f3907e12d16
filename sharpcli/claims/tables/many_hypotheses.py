"""The case in which the PAC-Bayes bound is nearly an equality: the best of very many hypotheses that know
nothing of the labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import binom

CONFIDENCE = 0.05  # the delta with which the bound may fail


def many_hypotheses(
    *, examples: list[int], log_hypotheses: list[float], seeds: list[int]
) -> list[dict[str, Any]]:
    """A row for each number m of examples, logarithm of the number N of hypotheses, and seed.

    The labels are fair coins and so are the predictions of each of the N hypotheses, whose numbers of errors
    on the training examples are N independent draws of a binomial law; the least of them is drawn by its own
    distribution function, 1 - (1 - F)^N. The posterior is this hypothesis and the prior is uniform, so that
    KL = ln N, and the expected error of new examples is 1/2. Then the gap between the errors is sqrt(ln N /
    2m) to leading order: no smaller constant can hold.

    Columns: `gap`, 1/2 less the training error; `kl`; `root`, the bound's sqrt((KL + ln(2 sqrt(m)/delta)) /
    2m), delta = 0.05 (Maurer 2004, arXiv:cs/0411099); `root_talk`, the talk's sqrt(KL / 4m).
    """
    rows = []
    for m in examples:
        for kl in log_hypotheses:
            for seed in seeds:
                uniform = np.random.default_rng([seed, m]).uniform()
                quantile = -math.expm1(math.log1p(-uniform) / math.exp(kl))  # F at the least of N draws
                gap = 0.5 - float(binom.ppf(quantile, m, 0.5)) / m
                root = math.sqrt((kl + math.log(2 * math.sqrt(m) / CONFIDENCE)) / (2 * m))
                talk = math.sqrt(kl / (4 * m))
                rows.append({"m": m, "kl": kl, "seed": seed, "gap": gap, "root": root, "root_talk": talk})
    return rows
