"""Trace of the Hessian: Hutchinson 1989, Hutch++ (Meyer et al. 2021, arXiv:2010.09649) or XTrace (Epperly,
Tropp & Webber 2024, arXiv:2301.07825)."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.linalg import trace as traces
from sharpcli.measures import Estimates, Point, left_out

LEFT_OUT_PROBES = 4  # by which the traces of groups of examples are compared


def trace(at: Point, *, method: traces.Method, rtol: float, max_products: int) -> Estimates:
    """The trace of the Hessian by the estimator `method`.

    Stops when trace_stderr is at most `rtol` |trace|, or before `max_products`. Exact up to rounding, by D
    products, where D <= max_products. Near initialization the trace crosses zero and no relative error is
    reached. Refuses rtol <= 0, and fewer than 8 products, which are too few for an error.

    Columns:
        trace [loss/weight^2, error _stderr]: Tr H, the sum of all eigenvalues of H; error: trace ± 2
            trace_stderr covers it in at least 95 % of cases; where exact, what rounding can do
        trace_left_out [loss/weight^2]: on m of n examples: half the half width of a 95 % interval for what
            the others would change
        trace_converged [-]: whether trace_stderr is at most `rtol` |trace|
    """
    if not rtol > 0 or max_products < traces.MIN_SAMPLES:
        raise Refusal(
            f"measure.trace: rtol={rtol} and max_products={max_products}; rtol above 0, max_products at "
            f"least {traces.MIN_SAMPLES}"
        )
    estimate = at.curvature.trace("hessian", method, at.rng, rtol, max_products)
    values = {"trace": estimate.value, "trace_stderr": estimate.stderr, "trace_converged": estimate.converged}
    others, spent = left_out(at, "hessian", traces.signs(LEFT_OUT_PROBES, at.w, at.rng))
    if others:  # the probes see the same examples: their mean varies over groups as each of them does
        values["trace_left_out"] = (sum(s**2 for s in others) / len(others)) ** 0.5
    return Estimates(values, estimate.products + spent)
