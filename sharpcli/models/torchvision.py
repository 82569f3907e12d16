"""Any classification network of torchvision, by its name."""

from __future__ import annotations

import difflib

from torch import nn

from sharpcli.errors import Refusal


def torchvision(shape: tuple[int, ...], outputs: int, *, name: str) -> nn.Module:
    """`torchvision.models.get_model(name)` with as many classes as the data, and no pretrained weights.

    Refuses a name that torchvision does not have.
    """
    import torchvision.models
    from torchvision.models import get_model, list_models

    there = list_models(module=torchvision.models)
    if name not in there:
        close = difflib.get_close_matches(name, there, n=3)
        raise Refusal(
            f"model.name={name}: torchvision has no such network; close: {', '.join(close) or 'none'}"
        )
    return get_model(name, weights=None, num_classes=outputs)
