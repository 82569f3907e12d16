"""Quadratic programs over positive semidefinite matrices of a few rows, solved by Clarabel."""

from __future__ import annotations

import clarabel
import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy import sparse
from torch import Tensor

SQRT_2 = 2**0.5


def pairs(k: int) -> list[tuple[int, int]]:
    """The indices (i, j), i <= j < k, of the upper triangle of a [k, k] matrix column by column: the order of
    the entries of `svec`."""
    return [(i, j) for j in range(k) for i in range(j + 1)]


def svec(X: Float[Tensor, "k k"]) -> Float[Tensor, " n"]:
    """The upper triangle of a symmetric matrix as a vector of n = k (k + 1) / 2 entries, the off-diagonal
    ones multiplied by sqrt(2), so that svec(X).svec(Y) = <X, Y>. The order and the scale are Clarabel's."""
    return torch.stack([X[i, j] * (1.0 if i == j else SQRT_2) for i, j in pairs(len(X))])


def smat(x: Float[Tensor, " n"], k: int) -> Float[Tensor, "k k"]:
    """The symmetric matrix X [k, k] with svec(X) = x."""
    X = x.new_zeros(k, k)
    for entry, (i, j) in zip(x, pairs(k), strict=True):
        X[i, j] = X[j, i] = entry / (1.0 if i == j else SQRT_2)
    return X


def least(Q: Float[Tensor, "n n"], a: Float[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """argmin 1/2 x.Qx - a.x over x = svec(X) with X positive semidefinite, for positive semidefinite Q.

    Its optimality conditions are the complementarity problem X >= 0, smat(Qx - a) >= 0, <X, smat(Qx - a)> =
    0. Raises ValueError if Clarabel reports no solution.
    """
    n = len(a)
    k = int(((8 * n + 1) ** 0.5 - 1) / 2)
    a_scale = float(a.abs().max()) or 1.0
    Q_scale = float(Q.abs().max()) or 1.0
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    # The solver's tolerances are partly absolute: with x = (a_scale / Q_scale) z the program for z has
    # entries around 1.
    quadratic = sparse.csc_matrix(np.triu((Q / Q_scale).double().cpu().numpy()))
    solver = clarabel.DefaultSolver(
        quadratic,
        -(a / a_scale).double().cpu().numpy(),
        sparse.csc_matrix(-np.eye(n)),
        np.zeros(n),
        [clarabel.PSDTriangleConeT(k)],
        settings,
    )
    solution = solver.solve()
    if "Solved" not in str(solution.status):
        raise ValueError(f"the complementarity problem is not solved ({solution.status})")
    return torch.tensor(solution.x, dtype=torch.float64) * (a_scale / Q_scale)
