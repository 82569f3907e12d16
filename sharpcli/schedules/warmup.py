"""A linear warm-up before any other schedule, as in Goyal et al. 2017, arXiv:1706.02677, section 2.2."""

import math

from sharpcli.errors import Refusal
from sharpcli.schedules import Shape, handing_on


@handing_on
def warmup(step: int, steps: int, lr: float, least_loss: float, *, share: float, base: Shape) -> float:
    """Over the share `share` of the steps the learning rate rises linearly to that with which the schedule
    `base` begins, which then has the other steps as its whole run.

    Refuses share outside [0, 1).
    """
    if not 0 <= share < 1:
        raise Refusal(f"schedule.share={share}: the warm-up's share of the steps, at least 0 and below 1")
    before = round(share * steps)
    if step < before:
        begins = base(step=0, steps=steps - before, lr=lr, least_loss=math.inf)
        return begins * (step + 1) / (before + 1)
    return base(step=step - before, steps=steps - before, lr=lr, least_loss=least_loss)
