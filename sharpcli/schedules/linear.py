"""A learning rate that falls along a line."""

from sharpcli.errors import Refusal


def linear(step: int, steps: int, lr: float, *, final: float) -> float:
    """lr (1 - (1 - final) step / steps). Refuses final outside [0, 1]."""
    if not 0 <= final <= 1:
        raise Refusal(f"schedule.final={final}: the learning rate at the end as a share of lr, 0 to 1")
    return lr * (1 - (1 - final) * step / max(steps, 1))
