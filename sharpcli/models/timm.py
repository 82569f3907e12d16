"""Any classification network of timm (pip install timm), by its name."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from sharpcli.errors import Refusal


def timm(shape: tuple[int, ...], outputs: int, *, name: str) -> nn.Module:
    """`timm.create_model(name)` for these inputs, with as many classes as the data, and no pretrained
    weights.

    Refuses a name that timm does not have, inputs that are no images, and a machine without timm.
    """
    try:
        import timm
    except ImportError:
        raise Refusal("model=timm: timm is not installed; pip install timm") from None
    if len(shape) != 3:
        raise Refusal(f"model=timm takes images (channels, height, width); these inputs are {list(shape)}")
    if name not in timm.list_models():
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise Refusal(f"model.name={name}: timm has no such network; close: {', '.join(close) or 'none'}")
    sized: dict[str, Any] = (
        {"img_size": shape[1:]} if name.startswith(("vit", "deit", "swin", "mixer")) else {}
    )
    return timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=shape[0], **sized)
