"""Any classification network of torchvision, by its name."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpcli.errors import Refusal
from sharpcli.models import check_images, check_name, image


def torchvision(shape: tuple[int, ...], outputs: int, *, name: str) -> nn.Module:
    """`torchvision.models.get_model(name)` with `outputs` classes and without pretrained weights.

    Refuses a name that torchvision does not have, inputs that are no images, and images of another number of
    channels, or of a size that the network does not take.
    """
    import torchvision.models
    from torchvision.models import get_model, get_model_weights, list_models

    check_name(name, list_models(module=torchvision.models), "torchvision")
    channels = image("torchvision", shape)[0]
    if channels != 3:
        raise Refusal(
            f"model.name={name} takes images of 3 channels; these have {channels}: repeat a single one in "
            f"the data (x.repeat(3, axis=1)), or use model=timm"
        )
    net = get_model(name, weights=None, num_classes=outputs)
    best: Any = list(get_model_weights(name))[-1]
    least = "x".join(map(str, best.meta.get("min_size", ())))
    made_for = best.transforms().crop_size[0]
    takes = f"3x{made_for}x{made_for}" + (f", and at least 3x{least}" if least else "")
    check_images(net, shape, name, f"{takes}; resize the images, or use model=timm")
    return net
