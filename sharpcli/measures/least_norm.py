"""How far a toy's solution is from the one of least norm, by a convex solver."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.theory.convex import least_l1, least_nuclear, least_trace


def least_norm(at: Point, *, positive: bool) -> Estimates:
    """On problem=uv `least_l1_norm`, that of basis pursuit, and `basis_pursuit_error`, its error as `recovery_error`. On
    matrices of any depth `least_nuclear_norm` among those that fit (among positive semidefinite ones for `positive`) and
    `nuclear_excess`, the relative excess of this one; at depth 2 `least_trace`, the least Tr H of an interpolator. Each with
    the solver's relative duality gap. Refuses other problems.
    """
    names = [name for name, _ in at.problem.layout]
    x, y = (part.numpy() for part in at.surface.joined)
    if names == ["u", "v"]:
        w, gap = least_l1(x, y[:, 0])
        found = torch.from_numpy(w)
        at_least = torch.cat([found.clamp_min(0).sqrt(), (-found).clamp_min(0).sqrt()])
        error = at.problem.scores(at_least)["recovery_error"]
        return Estimates({"least_l1_norm": float(abs(w).sum()), "basis_pursuit_error": error, "least_norm_gap": gap})
    if names[0] != "W_1":
        raise Refusal("measure=least_norm knows problem=uv and the matrix problems (matrix_sensing, deep_factorization)")
    d = at.problem.layout[0][1][0]
    A = x.reshape(-1, d, d)
    X, gap = least_nuclear(A, y[:, 0], positive)
    least = float(torch.linalg.matrix_norm(torch.from_numpy(X), "nuc"))
    values = {"least_nuclear_norm": least, "least_norm_gap": gap}
    values["nuclear_excess"] = at.problem.norms(at.w)["nuclear_norm"] / least - 1
    if len(names) == 2:
        values["least_trace"], values["least_trace_gap"] = least_trace(A, y[:, 0])
    return Estimates(values)
