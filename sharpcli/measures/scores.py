"""Loss and accuracy on the whole training and test sets, and a toy's own errors."""

from __future__ import annotations

from sharpcli.measures import Estimates, Point


def scores(at: Point) -> Estimates:
    """The problem's scores at w: `train_loss`, and `test_loss`, `train_accuracy`, `test_accuracy` (shares) or
    a toy's own such as `recovery_error`. Exact, over all examples whatever `measure_examples` says."""
    return Estimates(dict(at.problem.scores(at.w)))
