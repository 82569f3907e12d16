"""A learning rate that drops once the training loss is small: large steps until the data are fitted, small
ones after."""

from sharpcli.errors import Refusal


def decay_at_loss(lr: float, least_loss: float, *, loss: float, factor: float) -> float:
    """lr until a row's training loss is at most `loss`, and `factor` times lr from that row's step on.

    Refuses loss not above 0 and factor outside (0, 1).
    """
    if not loss > 0 or not 0 < factor < 1:
        raise Refusal(
            f"schedule.loss={loss} schedule.factor={factor}: a training loss above 0, and a factor between 0 "
            f"and 1"
        )
    return lr * factor if least_loss <= loss else lr
