"""Any classification network of torchvision, by its name."""

from __future__ import annotations

from torch import nn

from sharpcli.models import check_name


def torchvision(shape: tuple[int, ...], outputs: int, *, name: str) -> nn.Module:
    """`torchvision.models.get_model(name)` with `outputs` classes and without pretrained weights.

    Refuses a name that torchvision does not have.
    """
    import torchvision.models
    from torchvision.models import get_model, list_models

    check_name(name, list_models(module=torchvision.models), "torchvision")
    return get_model(name, weights=None, num_classes=outputs)
