"""Any classification network of timm (pip install timm), by its name."""

from __future__ import annotations

from typing import Any

from torch import nn

from sharpcli.errors import Refusal
from sharpcli.models import check_name, image


def timm(shape: tuple[int, ...], outputs: int, *, name: str) -> nn.Module:
    """`timm.create_model(name)` for images of this shape, with `outputs` classes and without pretrained
    weights.

    A network that timm's config of it calls one of a fixed input size (as a ViT, whose position embedding has
    the image's size) is made for the size of these images. Refuses a machine without timm, inputs that are no
    images, and a name that timm does not have.
    """
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError:
        raise Refusal("model=timm: timm is not installed; pip install timm") from None
    channels, height, width = image("timm", shape)
    check_name(name, timm.list_models(), "timm")
    config = get_pretrained_cfg(name)
    has_fixed_size = config is not None and config.fixed_input_size
    size: dict[str, Any] = {"img_size": (height, width)} if has_fixed_size else {}
    return timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=channels, **size)
