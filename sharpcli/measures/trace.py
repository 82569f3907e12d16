"""Trace of the Hessian by Hutchinson's estimator (Hutchinson 1989)."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.linalg.hutchinson import trace as hutchinson
from sharpcli.measures import Estimates, Point


def trace(at: Point, *, probes: int) -> Estimates:
    """`trace` = Tr H, the mean of z.Hz over `probes` Rademacher vectors z, and `trace_stderr`, its standard error.

    Near initialization the trace crosses zero and is mostly error. Refuses fewer than 2 probes, which have no spread.
    """
    if probes < 2:
        raise Refusal(f"measure.trace.probes={probes}: a standard error needs at least 2")
    mean, stderr = hutchinson(at.surface.linearize(at.w).hvp, at.w, probes, at.rng)
    return Estimates({"trace": mean, "trace_stderr": stderr}, products=probes)
