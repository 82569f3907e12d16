"""How often lambda_1 of a solve from a random start is further off than the error it states, and for how many
products, where eigenvalues crowd below the top.

`python benchmarks/crowds.py [SPECTRA]` prints the table of docs/measure.md: 1,000 spectra by default, of 300
and of 2,000 eigenvalues, in equal parts of five families. A solve stops when |R|^2 / gap and a number of
residuals are at most 1e-3 of lambda_1.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from sharpcli.linalg.lanczos import cluster_errors

TOL = 1e-3
MOST_STEPS = 45
NUMBERS = (0, 1, 2, 3, 5, 10)  # residuals that the stated error is at least
FAMILIES = ("log", "uniform", "one above", "edge", "apart")


def spectrum(family: str, D: int, rng: torch.Generator) -> Tensor:
    """A spectrum [D] with lambda_1 = 1: two to eight eigenvalues at the top, with gaps log-uniform in 1e-4 to
    0.1; uniform on a width log-uniform in 1e-3 to 0.1; one above a crowd of width 0.01; uniform on 0.15, as
    at the edge of stability; or apart by factors of 0.9. A bulk decays below 0.9, three tenths of it
    negative."""

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng, dtype=torch.float64)

    k = int(torch.randint(2, 9, (), generator=rng))
    width = 10 ** (-3 + 2 * uniform(1))
    below = {
        "log": lambda: (10 ** (-4 + 3 * uniform(k - 1))).cumsum(0),
        "uniform": lambda: width * uniform(k - 1),
        "one above": lambda: width + 0.01 * uniform(k - 1),
        "edge": lambda: 0.15 * uniform(k - 1),
        "apart": lambda: 1 - 0.9 ** torch.arange(1.0, k, dtype=torch.float64),
    }[family]()
    bulk = (0.3 + 0.6 * uniform(1)) * uniform(D - k) ** (1 + 6 * uniform(1))
    lam = torch.cat([torch.ones(1, dtype=torch.float64), 1 - below, bulk])
    lam[k:] *= torch.where(uniform(D - k) < 0.3, -0.1, 1.0)
    return lam / lam.max()


def tridiagonal(lam: Tensor, steps: int, rng: torch.Generator) -> Tensor:
    """The Jacobi matrix of Lanczos on diag(lam) from a random vector, re-orthogonalised, with one row more
    for the last residual."""
    T = torch.zeros(steps + 1, steps + 1, dtype=torch.float64)
    V = torch.zeros(steps + 1, len(lam), dtype=torch.float64)
    x = torch.randn(len(lam), generator=rng, dtype=torch.float64)
    for j in range(steps):
        V[j] = x / x.norm()
        x = lam * V[j]
        T[j, j] = x @ V[j]
        for _ in range(2):
            x = x - V[: j + 1].T @ (V[: j + 1] @ x)
        T[j, j + 1] = T[j + 1, j] = x.norm()
    return T


def history(T: Tensor) -> list[tuple[float, float, float]]:
    """theta_1, |R|^2 / gap and |R| of the largest Ritz pair after 2, 3, ... products, to the last stop."""
    rows = []
    for m in range(2, len(T)):
        theta, Y = torch.linalg.eigh(T[:m, :m])
        R = (T[m - 1, m] * Y[-1]).flip(0)[:8, None]
        estimate, residual = float(cluster_errors(theta.flip(0)[:8], R, 1)[0]), float(R[0].abs())
        rows.append((float(theta[-1]), estimate, residual))
        if max(estimate, NUMBERS[-1] * residual) <= TOL * float(theta[-1]):
            break
    return rows


def main() -> None:
    """Runs the solves and prints the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    rng = torch.Generator().manual_seed(1)
    off, misses = dict.fromkeys(NUMBERS, 0), dict.fromkeys(NUMBERS, 0)
    products = dict.fromkeys(NUMBERS, count)  # the first, before any pair of values
    for i in range(count):
        lam = spectrum(FAMILIES[i % len(FAMILIES)], (300, 2000)[i // len(FAMILIES) % 2], rng)
        rows = history(tridiagonal(lam, MOST_STEPS, rng))
        for number in NUMBERS:
            for theta, estimate, residual in rows:
                products[number] += 1
                stated = max(estimate, number * residual)
                if stated <= TOL * theta and residual <= TOL * theta:
                    break
            off[number] += 1 - theta > TOL
            misses[number] += 1 - theta > stated
    print(f"{count} spectra; an error is at least so many residuals, and one is at most {TOL} of lambda_1")
    for number in NUMBERS:
        off_by = f"{off[number] / count:6.2%} ± {math.sqrt(max(off[number], 1)) / count:.2%}"
        print(
            f"{number:>3}  further off than {TOL}: {off_by}  than stated: {misses[number] / count:6.2%}  "
            f"products {products[number] / count:.1f}"
        )


if __name__ == "__main__":
    main()
