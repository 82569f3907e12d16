"""The loss along a curve between networks that were trained apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from sharpcli.config.check import check, stored
from sharpcli.errors import Refusal

if TYPE_CHECKING:
    from sharpcli.landscape.paths import Curve
    from sharpcli.run import Run


def connected(
    runs: Sequence[Run],
    *,
    curve: Curve,
    points: int,
    fit_steps: int,
    lr: float,
    batch_size: int,
    match: bool,
) -> list[dict[str, Any]]:
    """A row for each two runs that follow one another: the `curve` (line, bezier or chain) from the last
    weights of the first to those of the second, at `points` values of t; fitted in `fit_steps` steps of Adam
    on batches of `batch_size` examples with step size `lr` times the root mean square of w_2 - w_1 (Garipov
    et al. 2018, arXiv:1802.10026). With `match`, the neurons of the second are first permuted to lie nearest
    to the first's (Ainsworth et al. 2023, arXiv:2209.04836).

    Columns: `barrier`, the largest excess of the loss over the line between the losses at the ends (Frankle
    et al. 2020, arXiv:1912.05671), and `barrier_error`; `end_loss` and `highest_loss`, the larger loss of the
    ends and the largest of all points; `end_accuracy` and `lowest_accuracy`, of tests, the smaller of the
    ends and the smallest of all points.

    Accuracies are null for networks without classes. Refuses fewer than two runs or three points, networks of
    other data or sizes, and a checkpoint that cannot be read."""
    from sharpcli.engine.experiment import build
    from sharpcli.engine.landscapes import along, fitted, have_one_loss, matched_to
    from sharpcli.engine.measuring import restore
    from sharpcli.landscape.paths import barrier, places

    if len(runs) < 2:
        raise Refusal(f"a curve joins two networks, and the runs are {len(runs)}; give two seeds")
    if points < 3:
        raise Refusal(f"points={points}: at least 3, the ends and one between")
    experiment = build(check(stored(runs[0].config), []))
    if any(run.provenance.get("data") != experiment.data_hash for run in runs):
        raise Refusal("the networks that a curve joins must be trained on the same examples")
    for run in runs[1:]:
        of_run = build(check(stored(run.config), []))
        if not have_one_loss(experiment, of_run, of_run.problem.w0):
            raise Refusal("the networks that a curve joins must be of one model and loss")
    ts = places(curve, points)
    rows = []
    for seed, (one, other) in enumerate(pairwise(runs)):
        try:
            first, last = (restore(run.load(run.checkpoints()[-1]), experiment)[0] for run in (one, other))
        except (ValueError, OSError, RuntimeError) as problem:
            raise Refusal(f"{one.name}, {other.name}: a checkpoint cannot be read ({problem})") from None
        last = matched_to(experiment, last, first) if match else last
        middle = fitted(experiment, curve, first, last, fit_steps, lr, batch_size, seed, lambda *_: None)
        passed = list(along(experiment, curve, first, middle, last, ts))
        losses = [loss for _, loss in passed]
        accuracies = [experiment.problem.scores(w).get("test_accuracy") for w, _ in passed]
        height = barrier(ts, losses)
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        rows.append(
            {
                "barrier": height.height,
                "barrier_error": height.error,
                "end_loss": max(losses[0], losses[-1]),
                "highest_loss": max(losses),
                "end_accuracy": min(known[0], known[-1]) if known else None,
                "lowest_accuracy": min(known) if known else None,
            }
        )
    return rows
