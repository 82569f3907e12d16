"""Warm-up, a constant learning rate, and a decay at the end: Hu et al. 2024, arXiv:2404.06395, section 4."""

from sharpcli.errors import Refusal


def warmup_stable_decay(
    step: int, steps: int, lr: float, *, warmup: float, decay: float, final: float
) -> float:
    """The learning rate rises linearly to lr over the share `warmup` of the steps, stays, and over the last
    share `decay` falls linearly to `final` times lr.

    Refuses shares below 0 or above 1 together, and final outside [0, 1].
    """
    if warmup < 0 or decay < 0 or warmup + decay > 1 or not 0 <= final <= 1:
        raise Refusal(
            f"schedule.warmup={warmup} schedule.decay={decay} schedule.final={final}: shares of the "
            f"steps, together 1 at most, and final a share of lr"
        )
    before, after = round(warmup * steps), round((1 - decay) * steps)
    if step < before:
        return lr * (step + 1) / (before + 1)
    if step < after:
        return lr
    return lr * (1 - (1 - final) * (step - after) / max(steps - after, 1))
