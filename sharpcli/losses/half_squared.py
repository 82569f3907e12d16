"""Half the squared error, summed over the outputs and averaged over the examples."""

from torch import Tensor

from sharpcli.errors import Refusal


def half_squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """(1 / 2n) sum_i |f_i - y_i|^2, f [n, C] the outputs and y [n, C] the targets. It is C / 2 times
    `torch.nn.functional.mse_loss`, and so are its gradient and Hessian; critical step sizes are 2 / C times
    those of `mse_loss`."""
    if not targets.is_floating_point():
        raise Refusal("loss=half_squared: needs real targets, and these are classes; use loss=cross_entropy")
    return (outputs - targets).square().sum() / (2 * len(targets))
