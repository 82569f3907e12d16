"""A linear warmup, then half a cosine: the schedule of Loshchilov & Hutter 2017, arXiv:1608.03983, without
restarts."""

from math import cos, pi

from sharpcli.errors import Refusal


def cosine(step: int, steps: int, lr: float, *, warmup: float, final: float) -> float:
    """The learning rate at `step` of `steps`: over the share `warmup` of the steps it rises linearly to lr,
    then it falls as half a cosine to `final` times lr.

    Refuses warmup outside [0, 1) and final outside [0, 1].
    """
    if not 0 <= warmup < 1 or not 0 <= final <= 1:
        raise Refusal(
            f"schedule.warmup={warmup} schedule.final={final}: shares of the steps and of lr, from 0, "
            f"warmup below 1"
        )
    warmup_steps = warmup * steps
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    share_of_cosine = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return lr * (final + (1 - final) * (1 + cos(pi * share_of_cosine)) / 2)
