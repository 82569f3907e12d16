"""A learning rate that drops at stated times: step decay, as He et al. 2016, arXiv:1512.03385, train."""

import math

from sharpcli.errors import Refusal


def multistep(step: int, steps: int, lr: float, *, at: list[float], factor: float) -> float:
    """lr factor^k, k the number of the drops `at` (shares of the run) that lie at or before the step, as
    `torch.optim.lr_scheduler.MultiStepLR` has it.

    Refuses shares outside (0, 1) or out of order, and factor outside (0, 1).
    """
    if any(not 0 < share < 1 for share in at) or sorted(at) != at or not 0 < factor < 1:
        raise Refusal(
            f"schedule.at={at} schedule.factor={factor}: shares of the steps in their order, between 0 and "
            f"1, and a factor between 0 and 1"
        )
    # a drop at step 0.7 * 10 = 7.000000000000001 is at step 7
    return lr * factor ** sum(step >= math.ceil(share * steps - 1e-9) for share in at)
