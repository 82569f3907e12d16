"""The solution of least norm among those that fit linear measurements, with its duality gap: label noise,
tiny initial weights and LASSO are compared with it. Each solver is imported where it is called: most runs of
a toy call none, and the import takes a quarter of a second."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SMALLEST_DIVISOR = 1e-300  # a relative gap divides by no less, so that a least norm of 0 gives no NaN
SOLVER_TOL = 1e-10  # Clarabel's tolerance on the duality gap, absolute and relative, and on feasibility


def least_l1(Z: Array, y: Array, weights: Array | None = None, positive: bool = False) -> tuple[Array, float]:
    """argmin sum_j c_j |w_j| over the w [d] with Z w = y (basis pursuit), and the relative duality gap.

    Z is [n, d], y [n] and c = `weights` [d], 1 by default; `positive` admits w >= 0 alone. It is a linear
    program in w = p - q, p and q >= 0, solved by HiGHS; the dual is max y.l over the multipliers l [n] with
    |Z^T l| <= c (Z^T l <= c with `positive`). Raises ValueError where no w fits.
    """
    from scipy.optimize import linprog

    d = Z.shape[1]
    c = np.ones(d) if weights is None else weights
    costs, columns = (c, Z) if positive else (np.concatenate([c, c]), np.hstack([Z, -Z]))
    solution = linprog(costs, A_eq=columns, b_eq=y, bounds=(0, None), method="highs")
    if not solution.success:
        raise ValueError(f"no vector fits these measurements ({solution.message})")
    w = solution.x if positive else solution.x[:d] - solution.x[d:]
    primal, multipliers = float(c @ np.abs(w)), solution.eqlin.marginals
    multipliers = multipliers / max(1.0, float(np.max(columns.T @ multipliers / costs)))  # now feasible
    return w, (primal - float(y @ multipliers)) / max(primal, SMALLEST_DIVISOR)


def least_nuclear(A: Array, y: Array, positive: bool = False) -> tuple[Array, float]:
    """argmin |X|_* over the X [p, q] with <A_i, X> = y_i, and the relative duality gap.

    A is [n, p, q] and y [n]; `positive` admits positive semidefinite X alone (then p = q and |X|_* = Tr X).
    It is the semidefinite program min Tr M / 2 over M = [[W1, X], [X^T, W2]] >= 0, solved by Clarabel; the
    dual is max y.l over the multipliers l [n] with |sum_i l_i A_i| <= 1 in the operator norm. Raises
    ValueError where no X fits.
    """
    import clarabel
    from scipy import sparse

    n, p, q = A.shape
    if positive:
        size, trace_weight, blocks = p, 1.0, (A + A.transpose(0, 2, 1)) / 2
    else:
        size, trace_weight = p + q, 0.5
        blocks = np.zeros((n, size, size))
        blocks[:, :p, p:] = A / 2
        blocks[:, p:, :p] = A.transpose(0, 2, 1) / 2
    # Clarabel's vector of a symmetric matrix: its upper triangle by columns, entries off the diagonal times
    # sqrt 2
    rows, columns = np.triu_indices(size)
    order = np.lexsort((rows, columns))
    rows, columns = rows[order], columns[order]
    factors = np.where(rows == columns, 1.0, 2**0.5)
    m = len(rows)
    measurements = sparse.csc_matrix(blocks[:, rows, columns] * factors)
    constraints = sparse.vstack([measurements, -sparse.identity(m)], format="csc")
    bounds = np.concatenate([y, np.zeros(m)])
    cost = np.where(rows == columns, trace_weight, 0.0)
    cones = [clarabel.ZeroConeT(n), clarabel.PSDTriangleConeT(size)]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = SOLVER_TOL
    no_quadratic = sparse.csc_matrix((m, m))
    solution = clarabel.DefaultSolver(no_quadratic, cost, constraints, bounds, cones, settings).solve()
    if "Infeasible" in str(solution.status):
        raise ValueError(f"no matrix fits these measurements ({solution.status})")
    M = np.zeros((size, size))
    M[rows, columns] = np.array(solution.x) / factors
    M = M + np.triu(M, 1).T
    X = M if positive else M[:p, p:]
    primal = float(np.trace(M)) if positive else float(np.linalg.norm(X, "nuc"))
    multipliers = -np.array(solution.z)[:n]
    combined = np.tensordot(multipliers, A, 1)  # sum_i l_i A_i
    if positive:
        norm = float(np.linalg.eigvalsh((combined + combined.T) / 2)[-1])
    else:
        norm = float(np.linalg.norm(combined, 2))
    return X, (primal - float(y @ multipliers) / max(1.0, norm)) / max(primal, SMALLEST_DIVISOR)


def least_trace(A: Array, y: Array) -> tuple[float, float]:
    """The least Tr H of half squared loss over the (U, V) with <A_i, U V^T> = y_i, A [n, p, q] and y [n]; and
    the relative duality gap.

    At an interpolator Tr H = (1/n) sum_i |A_i V|^2 + |A_i^T U|^2 = Tr V^T B1 V + Tr U^T B2 U with B1 = mean_i
    A_i^T A_i [q, q] and B2 = mean_i A_i A_i^T [p, p], so that its least value is 2 min |B2^(1/2) X
    B1^(1/2)|_* over the X with <A_i, X> = y_i. Ding et al. 2024, arXiv:2209.01750.
    """
    root_1 = _root(np.einsum("nia,nib->ab", A, A) / len(A))
    root_2 = _root(np.einsum("nai,nbi->ab", A, A) / len(A))
    inverse_1, inverse_2 = np.linalg.inv(root_1), np.linalg.inv(root_2)
    X, gap = least_nuclear(np.einsum("ab,nbc,cd->nad", inverse_2, A, inverse_1), y)
    return 2 * float(np.linalg.norm(X, "nuc")), gap


def _root(B: Array) -> Array:
    """B^(1/2) of a positive semidefinite B [p, p]; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh(B)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
