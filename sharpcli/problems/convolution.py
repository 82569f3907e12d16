"""Convolutions whose second and higher derivatives are convolutions again.

y = conv(x, w) is bilinear, and the gradient g of a loss in y makes of it one trilinear form T(x, w, g) =
conv(x, w).g. The gradients of T in its three arguments, y(x, w), dx(g, w) and dw(g, x), are the derivatives
of one another, and each of them is one call of PyTorch's convolution kernels. PyTorch's double backward
computes the gradient in the weights as a convolution with the image as its kernel and the batch as its
channels instead: on an H100 12 such calls took 77 % of a Hessian product of a ResNet-20.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups


class Convolutions(TorchFunctionMode):
    """A mode in which the functions `conv1d`, `conv2d` and `conv3d` of torch, where they are differentiated,
    are computed by the autograd functions of this module."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in SPATIAL_DIMENSIONS:
            return _convolution(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


SPATIAL_DIMENSIONS: dict[Callable[..., Tensor], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}


def _convolution(
    torch_function: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """What `torch_function`, one of `SPATIAL_DIMENSIONS`, gives for these arguments; by `_Output` where it is
    differentiated, the padding is a number and the input a batch."""
    differentiated = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    dims = SPATIAL_DIMENSIONS[torch_function]
    if isinstance(padding, str) or input.ndim != dims + 2 or not differentiated:
        return torch_function(input, weight, bias, stride, padding, dilation, groups)
    device = input.device.type
    if torch.is_autocast_enabled(device):  # PyTorch's own convolutions are cast for us, ours are not
        half = torch.get_autocast_dtype(device)
        input, weight = input.to(half), weight.to(half)
        bias = None if bias is None else bias.to(half)
    by_dimension = tuple(
        [value] * dims if isinstance(value, int) else list(value) for value in (stride, padding, dilation)
    )
    y = _Output.apply(input, weight, (*by_dimension, groups))
    return y if bias is None else y + bias.view(-1, *[1] * dims)


def _backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, needed: Sequence[bool]) -> Any:
    """The gradients of conv(x, w).g in x and in w: of each a tensor where it is `needed`, else None."""
    stride, padding, dilation, groups = geometry
    mask, zeros = [*needed, False], [0] * len(stride)
    dx, dw, _ = torch.ops.aten.convolution_backward(
        g, x, w, None, stride, padding, dilation, False, zeros, groups, mask
    )
    return dx, dw


class _Output(torch.autograd.Function):
    """y = conv(x, w): bilinear in x and w."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        stride, padding, dilation, groups = geometry
        return torch.convolution(x, w, None, stride, padding, dilation, False, [0] * len(stride), groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, w, ctx.geometry = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        if not torch.is_grad_enabled():  # nobody differentiates these: both in one call, which is faster
            return *_backward(g, x, w, ctx.geometry, ctx.needs_input_grad[:2]), None
        dx = _Input.apply(g, w, x, ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = _Weight.apply(g, x, w, ctx.geometry) if ctx.needs_input_grad[1] else None
        return dx, dw, None

    @staticmethod
    def jvp(ctx: Any, x_t: Tensor | None, w_t: Tensor | None, _: Any) -> Any:
        x, w = ctx.saved_tensors
        return _sum(
            None if x_t is None else _Output.apply(x_t, w, ctx.geometry),
            None if w_t is None else _Output.apply(x, w_t, ctx.geometry),
        )


class _Input(torch.autograd.Function):
    """dx, the gradient in x of conv(x, w).g: bilinear in g and w; of x only the shape matters."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, w: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        return _backward(g, x, w, geometry, (True, False))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, w, x, ctx.geometry = inputs
        ctx.save_for_backward(g, w, x)
        ctx.save_for_forward(g, w, x)

    @staticmethod
    def backward(ctx: Any, a: Tensor) -> Any:
        g, w, _ = ctx.saved_tensors
        dg = _Output.apply(a, w, ctx.geometry) if ctx.needs_input_grad[0] else None
        dw = _Weight.apply(g, a, w, ctx.geometry) if ctx.needs_input_grad[1] else None
        return dg, dw, None, None

    @staticmethod
    def jvp(ctx: Any, g_t: Tensor | None, w_t: Tensor | None, x_t: Tensor | None, _: Any) -> Any:
        g, w, x = ctx.saved_tensors
        return _sum(
            None if g_t is None else _Input.apply(g_t, w, x, ctx.geometry),
            None if w_t is None else _Input.apply(g, w_t, x, ctx.geometry),
        )


class _Weight(torch.autograd.Function):
    """dw, the gradient in w of conv(x, w).g: bilinear in g and x; of w only the shape matters."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        return _backward(g, x, w, geometry, (False, True))[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        g, x, w, ctx.geometry = inputs
        ctx.save_for_backward(g, x, w)
        ctx.save_for_forward(g, x, w)

    @staticmethod
    def backward(ctx: Any, b: Tensor) -> Any:
        g, x, _ = ctx.saved_tensors
        dg = _Output.apply(x, b, ctx.geometry) if ctx.needs_input_grad[0] else None
        dx = _Input.apply(g, b, x, ctx.geometry) if ctx.needs_input_grad[1] else None
        return dg, dx, None, None

    @staticmethod
    def jvp(ctx: Any, g_t: Tensor | None, x_t: Tensor | None, w_t: Tensor | None, _: Any) -> Any:
        g, x, w = ctx.saved_tensors
        return _sum(
            None if g_t is None else _Weight.apply(g_t, x, w, ctx.geometry),
            None if x_t is None else _Weight.apply(g, x_t, w, ctx.geometry),
        )


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, where None stands for 0."""
    if a is None:
        return b
    return a if b is None else a + b
