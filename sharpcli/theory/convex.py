"""Solutions of least norm among those that fit the measurements, each with a duality gap: what label noise,
tiny initial weights and LASSO are compared with."""

from __future__ import annotations

import clarabel
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

Array = NDArray[np.float64]


def least_l1(Z: Array, y: Array, weights: Array | None = None, positive: bool = False) -> tuple[Array, float]:
    """argmin sum_j c_j |w_j| with Z w = y (basis pursuit; c = `weights`, 1 by default), over w >= 0 with
    `positive`, and the relative duality gap.

    A linear program in w = p - q by HiGHS; the dual is max y.l with |Z^T l| <= c (Z^T l <= c with
    `positive`). Raises ValueError where nothing fits.
    """
    d = Z.shape[1]
    c = np.ones(d) if weights is None else weights
    costs, columns = (c, Z) if positive else (np.concatenate([c, c]), np.hstack([Z, -Z]))
    found = linprog(costs, A_eq=columns, b_eq=y, bounds=(0, None), method="highs")
    if not found.success:
        raise ValueError(f"no vector fits these measurements ({found.message})")
    w = found.x if positive else found.x[:d] - found.x[d:]
    value, dual = float(c @ np.abs(w)), found.eqlin.marginals
    dual = dual / max(1.0, float(np.max(columns.T @ dual / costs)))  # made feasible
    return w, (value - float(y @ dual)) / max(value, 1e-300)


def least_nuclear(A: Array, y: Array, positive: bool = False) -> tuple[Array, float]:
    """argmin |X|_* with <A_i, X> = y_i, A [n, p, q], and the relative duality gap; over X >= 0 (then p = q
    and |X|_* is Tr X) with `positive`.

    The semidefinite program min Tr M / 2 over M = [[W1, X], [X^T, W2]] >= 0, by Clarabel; its dual is max y.l
    with |sum_i l_i A_i| <= 1 in the operator norm. Raises ValueError where nothing fits.
    """
    n, p, q = A.shape
    if positive:
        size, weight, blocks = p, 1.0, (A + A.transpose(0, 2, 1)) / 2
    else:
        size, weight = p + q, 0.5
        blocks = np.zeros((n, size, size))
        blocks[:, :p, p:] = A / 2
        blocks[:, p:, :p] = A.transpose(0, 2, 1) / 2
    rows, columns = np.triu_indices(size)
    order = np.lexsort((rows, columns))  # the upper triangle by columns, off-diagonal entries times sqrt 2
    rows, columns = rows[order], columns[order]
    twice = np.where(rows == columns, 1.0, 2**0.5)
    equal = blocks[:, rows, columns] * twice
    cost = np.where(rows == columns, weight, 0.0)
    m = len(rows)
    lines = sparse.vstack([sparse.csc_matrix(equal), -sparse.identity(m)], format="csc")
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.ZeroConeT(n), clarabel.PSDTriangleConeT(size)]
    right = np.concatenate([y, np.zeros(m)])
    found = clarabel.DefaultSolver(sparse.csc_matrix((m, m)), cost, lines, right, cones, settings).solve()
    if "Infeasible" in str(found.status):
        raise ValueError(f"no matrix fits these measurements ({found.status})")
    M = np.zeros((size, size))
    M[rows, columns] = np.array(found.x) / twice
    M = M + np.triu(M, 1).T
    X = M if positive else M[:p, p:]
    value = float(np.trace(M)) if positive else float(np.linalg.norm(X, "nuc"))
    dual = -np.array(found.z)[:n]
    slope = np.tensordot(dual, A, 1)
    largest = np.linalg.eigvalsh((slope + slope.T) / 2)[-1] if positive else np.linalg.norm(slope, 2)
    return X, (value - float(y @ dual) / max(1.0, float(largest))) / max(value, 1e-300)


def least_trace(A: Array, y: Array) -> tuple[float, float]:
    """min Tr H over the interpolators of <A_i, U V^T>, with half squared mean loss: 2 min |B2^(1/2) X
    B1^(1/2)|_* over <A_i, X> = y_i, B1 = mean A^T A, B2 = mean A A^T; and the relative duality gap.

    Tr H = (1/n) sum_i |A_i V|^2 + |A_i^T U|^2 = Tr V^T B1 V + Tr U^T B2 U. Ding et al. 2024,
    arXiv:2209.01750.
    """
    one, two = (_root(np.einsum(word, A, A) / len(A)) for word in ("nia,nib->ab", "nai,nbi->ab"))
    back_one, back_two = np.linalg.inv(one), np.linalg.inv(two)
    X, gap = least_nuclear(np.einsum("ab,nbc,cd->nad", back_two, A, back_one), y)
    return 2 * float(np.linalg.norm(X, "nuc")), gap


def _root(B: Array) -> Array:
    values, vectors = np.linalg.eigh(B)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
