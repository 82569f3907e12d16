"""Weights from a file in a module: which name of the file is which of the module's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from sharpcli.errors import Refusal

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norm


def load(module: nn.Module, weights: Mapping[str, Tensor], *, statistics: bool) -> None:
    """Copies a state dict into the module; refuses one whose names or shapes differ, and NaN or infinity,
    with a list. The running statistics of batch norm must come where `statistics` says that they are used."""
    model, came = module.state_dict(), dict(weights)
    missing = [key for key in model if key not in came and not key.endswith(STATISTICS)]
    extra = [key for key in came if key not in model and not key.endswith(STATISTICS)]
    shapes = [
        f"{key} is {list(came[key].shape)} for {list(tensor.shape)}"
        for key, tensor in model.items()
        if key in came and came[key].shape != tensor.shape
    ]
    differences = []
    for keys, what in ((missing, "missing"), (extra, "not in the model"), (shapes, "of another shape")):
        more = ", ..." if len(keys) > 4 else ""
        differences += [f"{len(keys)} {what} ({', '.join(keys[:4])}{more})"] if keys else []
    if differences:
        raise Refusal(
            f"the weights are those of another model: {'; '.join(differences)}; choose the model that was "
            f"trained"
        )
    if bad := [
        key for key, value in came.items() if value.is_floating_point() and not bool(value.isfinite().all())
    ]:
        raise Refusal(
            f"the weights hold NaN or infinity in {', '.join(bad[:4])}; there is no curvature to measure"
        )
    if lost := [key for key in model if key not in came and statistics]:
        raise Refusal(
            f"the weights have no running statistics ({lost[0]}); take problem.batchnorm=batch or population"
        )
    module.load_state_dict(came, strict=False)
