"""Convolutions with convolutions for derivatives, against PyTorch's own."""

import pytest
import torch

from sharpcli.problems.convolution import Convolutions

SHAPES = [
    (torch.conv2d, (3, 4, 6, 5), (6, 4, 3, 3), {"stride": 2, "padding": 1}),
    (torch.conv2d, (2, 4, 7, 7), (4, 2, 3, 3), {"padding": 1, "groups": 2}),
    (torch.conv2d, (2, 4, 7, 7), (3, 4, 2, 2), {"dilation": 2, "stride": (1, 2)}),
    (torch.conv1d, (2, 3, 9), (4, 3, 3), {"padding": 1}),
    (torch.conv3d, (2, 2, 4, 4, 4), (3, 2, 2, 2, 2), {}),
    (torch.conv2d, (2, 3, 5, 5), (3, 3, 3, 3), {"padding": "same"}),
]


@pytest.mark.parametrize("conv, xs, ws, how", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_all_derivatives_up_to_the_third_are_those_of_torch(conv, xs, ws, how, with_bias):
    rng = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=rng, dtype=torch.float64) for s in (xs, ws, ws[:1]))

    def chain(mode):
        a, c, d = (t.clone().requires_grad_() for t in (x, w, b))
        out = []
        with mode():
            y = conv(a, c, d if with_bias else None, **how)
        value = (y.tanh() * y).sum()
        leaves = [a, c, *([d] if with_bias else [])]
        for _ in range(3):
            grads = torch.autograd.grad(value, leaves, create_graph=True)
            out += [g.detach() for g in grads]
            value = sum(
                (g.sin() * torch.linspace(0, 1, g.numel(), dtype=g.dtype).view_as(g)).sum() for g in grads
            )
        return out

    class Off:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    for ours, theirs in zip(chain(Convolutions), chain(Off), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.filterwarnings("ignore::FutureWarning:torch.jit")
def test_they_are_used_where_something_is_differentiated_and_work_under_torch_func():
    x, w = torch.randn(2, 3, 5, 5).double(), torch.randn(4, 3, 3, 3).double().requires_grad_()

    def loss(w):
        with Convolutions():
            return torch.conv2d(x, w).tanh().square().sum()

    with Convolutions():
        assert "_Output" in type(torch.conv2d(x, w).grad_fn).__name__
        assert torch.conv2d(x, w.detach()).grad_fn is None
    v = torch.randn_like(w)
    _, forward = torch.func.jvp(torch.func.grad(loss), (w.detach(),), (v,))
    (backward,) = torch.autograd.grad(torch.autograd.grad(loss(w), w, create_graph=True)[0], w, v)
    assert torch.allclose(forward, backward, rtol=1e-9)
    many = torch.func.vmap(torch.func.grad(loss))(torch.stack([w.detach(), 2 * w.detach()]))
    assert torch.allclose(many[0], torch.autograd.grad(loss(w), w)[0], rtol=1e-9)
