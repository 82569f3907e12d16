"""Cross-entropy of the softmax against one-hot (or real-valued) targets, or the classes of tokens."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """-(1 / n) sum_i sum_c y_ic log softmax(f_i)_c in nats, f [n, C] the outputs and y [n, C] the targets;
    for outputs [n, T, C] and classes [n, T] (the tokens of texts) the mean over all that are not -100.

    The softmax is computed in float64 where the device has it, and the result is in the outputs' precision.
    In float32 the probability 1 - 1e-5 of a fitted example keeps two of its digits, and the Hessian, a sum of
    p (1 - p), was wrong by 3e-4 of its norm at a loss of 1e-5, and by 4e-6 at most with this.
    """
    if not targets.is_floating_point():
        outputs, targets = outputs.flatten(0, -2), targets.flatten()
        precise = outputs if outputs.device.type == "mps" else outputs.double()
        return F.cross_entropy(precise, targets).to(outputs)
    if outputs.device.type == "mps":  # Apple's GPUs have no float64
        return F.cross_entropy(outputs, targets)
    return F.cross_entropy(outputs.double(), targets.double()).to(outputs)
