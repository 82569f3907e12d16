"""A linear warmup, then half a cosine; Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts."""

from math import cos, pi

from sharpcli.errors import Refusal


def cosine(step: int, steps: int, lr: float, *, warmup: float, final: float) -> float:
    """Rises linearly to lr over the share `warmup` of all steps, then falls as half a cosine to `final` times
    lr.

    Refuses warmup outside [0, 1) and final outside [0, 1].
    """
    if not 0 <= warmup < 1 or not 0 <= final <= 1:
        raise Refusal(
            f"schedule.warmup={warmup} schedule.final={final}: shares of the steps and of lr, from 0, "
            f"warmup below 1"
        )
    rising = warmup * steps
    if step < rising:
        return lr * (step + 1) / (rising + 1)
    share = (step - rising) / max(steps - rising, 1)
    return lr * (final + (1 - final) * (1 + cos(pi * share)) / 2)
