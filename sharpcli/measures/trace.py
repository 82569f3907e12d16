"""Trace of the Hessian: Hutchinson, Hutch++ (Meyer et al. 2021) or XTrace (Epperly et al. 2024)."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.linalg import trace as traces
from sharpcli.measures import Estimates, Point


def trace(at: Point, *, method: traces.Method, rtol: float, max_products: int) -> Estimates:
    """`trace` = Tr H and `trace_stderr`, its standard error from independent probes.

    Stops when the standard error is at most `rtol` |trace|, or before `max_products` (`trace_converged`
    false). Exact, by D products, where D <= max_products. Near initialization the trace crosses zero and no
    relative error is reached. Refuses rtol <= 0 and fewer than 8 products, from which no standard error is
    believed.
    """
    if not rtol > 0 or max_products < traces.FEWEST:
        raise Refusal(
            f"measure.trace: rtol={rtol} and max_products={max_products}; rtol above 0, max_products at "
            f"least {traces.FEWEST}"
        )
    hvp = at.curvature.matvec("hessian")
    estimate = traces.estimate(method, hvp, at.w, at.rng, rtol, max_products, at.curvature.tell)
    values = {"trace": estimate.value, "trace_stderr": estimate.stderr, "trace_converged": estimate.converged}
    return Estimates(values, estimate.products)
