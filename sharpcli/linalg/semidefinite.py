"""Quadratic programs over positive semidefinite matrices of a few rows, by Clarabel."""

from __future__ import annotations

import clarabel
import numpy as np
import torch
from scipy import sparse
from torch import Tensor

ROOT = 2**0.5


def pairs(k: int) -> list[tuple[int, int]]:
    """(i, j), i <= j, of the upper triangle by columns: the order of `svec`, in which off-diagonal entries
    count sqrt 2."""
    return [(i, j) for j in range(k) for i in range(j + 1)]


def svec(X: Tensor) -> Tensor:
    """A symmetric matrix [k, k] as the vector [k (k + 1) / 2] of the same norm."""
    return torch.stack([X[i, j] * (1.0 if i == j else ROOT) for i, j in pairs(len(X))])


def smat(x: Tensor, k: int) -> Tensor:
    """The symmetric matrix [k, k] of a vector of `svec`."""
    X = x.new_zeros(k, k)
    for entry, (i, j) in zip(x, pairs(k), strict=True):
        X[i, j] = X[j, i] = entry / (1.0 if i == j else ROOT)
    return X


def least(Q: Tensor, a: Tensor) -> Tensor:
    """argmin 1/2 x.Qx - a.x over x = svec(X) with X positive semidefinite, Q [m, m] positive semidefinite.

    Equivalently the complementarity problem X >= 0, smat(Qx - a) >= 0, <X, smat(Qx - a)> = 0. Raises
    ValueError where it has no solution.
    """
    m = len(a)
    k = int(((8 * m + 1) ** 0.5 - 1) / 2)
    scale = float(a.abs().max()) or 1.0
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    size = float(Q.abs().max()) or 1.0  # x = scale / size * z, so that the solver sees numbers around 1
    quadratic = sparse.csc_matrix(np.triu((Q / size).double().cpu().numpy()))
    solver = clarabel.DefaultSolver(
        quadratic,
        -(a / scale).double().cpu().numpy(),
        sparse.csc_matrix(-np.eye(m)),
        np.zeros(m),
        [clarabel.PSDTriangleConeT(k)],
        settings,
    )
    found = solver.solve()
    if "Solved" not in str(found.status):
        raise ValueError(f"the complementarity problem is not solved ({found.status})")
    return torch.tensor(found.x, dtype=torch.float64) * (scale / size)
