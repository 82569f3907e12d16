"""The one-cycle policy, Smith & Topin 2018, arXiv:1708.07120, with half cosines."""

from math import cos, pi

from sharpcli.errors import Refusal


def one_cycle(step: int, steps: int, lr: float, *, rise: float, first: float, final: float) -> float:
    """The learning rate goes from `first` times lr up to lr over the share `rise` of the steps and then down
    to `final` times lr at the last step, each along half a cosine, as
    `torch.optim.lr_scheduler.OneCycleLR` does without cycling momentum; its div_factor is 1 / first.

    Refuses rise outside (0, 1), and first or final outside [0, 1].
    """
    if not 0 < rise < 1 or not 0 <= first <= 1 or not 0 <= final <= 1:
        raise Refusal(
            f"schedule.rise={rise} schedule.first={first} schedule.final={final}: rise between 0 and 1, the "
            f"others shares of lr from 0 to 1"
        )
    top, last = rise * steps - 1, steps - 1
    if step <= top:
        return lr * _between(first, 1.0, step / top if top > 0 else 1.0)
    return lr * _between(1.0, final, (step - top) / (last - top) if last > top else 1.0)


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + cos(pi * share)) / 2
