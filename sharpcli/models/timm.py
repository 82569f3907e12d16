"""Any classification network of timm (pip install timm), by its name."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from sharpcli.errors import Refusal
from sharpcli.models import check_images, check_name, image


def timm(shape: tuple[int, ...], outputs: int, *, name: str, img_size: int | None) -> nn.Module:
    """`timm.create_model(name)` for images of this shape, with `outputs` classes and without pretrained
    weights.

    A network that timm's config of it calls one of a fixed input size (as a ViT, whose position embedding has
    the image's size) is made for the size of these images. With `img_size` it is made for images of that
    side, and these images are resized to it first (bilinear). Refuses a machine without timm, inputs that are
    no images, a name that timm does not have, and a size of images that the network does not take.
    """
    try:
        import timm
        from timm.models import get_pretrained_cfg
    except ImportError:
        raise Refusal("model=timm: timm is not installed; pip install timm") from None
    channels, height, width = image("timm", shape)
    check_name(name, timm.list_models(), "timm")
    if img_size is not None and not 1 <= img_size <= 4096:
        raise Refusal(f"model.img_size={img_size}: the side of the images that the network takes; 1 to 4096")
    size = (height, width) if img_size is None else (img_size, img_size)
    config = get_pretrained_cfg(name)
    made_for = "x".join(map(str, config.input_size)) if config is not None else "other sizes"
    has_fixed_size = config is not None and config.fixed_input_size
    settings: dict[str, Any] = {"img_size": size} if has_fixed_size else {}
    advice = f"{made_for}; give model.img_size={made_for.rpartition('x')[2]}, and images are resized to it"
    try:
        net = timm.create_model(name, pretrained=False, num_classes=outputs, in_chans=channels, **settings)
    except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as problem:
        reason = str(problem).split("\n", maxsplit=1)[0][:160]
        raise Refusal(
            f"model.name={name} cannot be made for images of {size[0]}x{size[1]} ({reason}): it takes "
            f"{advice}"
        ) from None
    check_images(net, (channels, *size), name, advice)
    return net if size == (height, width) else nn.Sequential(_Resize(size), net)


class _Resize(nn.Module):
    """[n, channels, height, width] -> [n, channels, *size] by bilinear interpolation."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, self.size, mode="bilinear", antialias=True)
