"""Cross-entropy of the softmax against one-hot (or real-valued) targets."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """-(1 / n) sum_i sum_c y_ic log softmax(f_i)_c in nats, f [n, C] the outputs and y [n, C] the targets."""
    return F.cross_entropy(outputs, targets)
