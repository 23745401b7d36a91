"""Linear layers and depthwise convolutions against PyTorch's own in float64, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asr.nn.linear import DepthwiseConv, Linear


def outputs_and_gradients(module: nn.Module, x: Tensor, direction: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.backward(direction.to(y.dtype))
    gradients = [x.grad, *(parameter.grad for parameter in module.parameters())]
    return [y.detach(), *(g.clone() for g in gradients if g is not None)]


def check(ours: nn.Module, theirs: nn.Module, x: Tensor, node: str) -> None:
    """``node``: the name of ours in the graph, or another kernel than the one meant was compared."""
    assert ours(x.requires_grad_()).grad_fn.name() == node
    x = x.detach()
    direction = torch.randn_like(ours(x))
    got = outputs_and_gradients(ours, x, direction)
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    expected = outputs_and_gradients(theirs, x.double(), direction)
    assert len(got) == len(expected)
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(
            mine.double(), other, atol=2e-6 * float(other.abs().max()), rtol=0
        )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 17), (2, 33, 17), (3, 1, 17), (1, 17)])
def test_linear_is_pytorchs(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours = Linear(17, 24, bias=bias)
    check(ours, nn.Linear(17, 24, bias=bias), torch.randn(shape), "_OnednnLinearBackward")


def test_linear_takes_any_strides() -> None:
    torch.manual_seed(1)
    x = torch.randn(17, 6, 4).transpose(0, 2)
    check(Linear(17, 3), nn.Linear(17, 3), x, "_OnednnLinearBackward")


@pytest.mark.parametrize(("num_frames", "kernel"), [(40, 31), (9, 31), (1, 5), (200, 1)])
def test_depthwise_convolution_is_pytorchs(num_frames: int, kernel: int) -> None:
    torch.manual_seed(2)
    dim = 20
    x_bd1t = torch.randn(3, num_frames, dim).transpose(1, 2).unsqueeze(2)
    theirs = nn.Conv2d(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)
    check(DepthwiseConv(dim, kernel), theirs, x_bd1t, "_DepthwiseOverTimeBackward")


def test_depthwise_convolution_by_hand() -> None:
    ours = DepthwiseConv(1, 3)
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 1, 3))
        ours.bias.fill_(0.5)
    # frame t takes 1 of the frame before, 10 of itself, 100 of the next; nothing beyond the ends
    got = ours(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)).flatten().tolist()
    assert got == [210.5, 321.5, 32.5]


def test_other_types_go_pytorchs_way() -> None:
    linear, convolution = Linear(4, 3).double(), DepthwiseConv(4, 3).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    assert linear(x).dtype == convolution(x.transpose(1, 2).unsqueeze(2)).dtype == torch.float64
    linear, convolution = linear.float(), convolution.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x.float())
        z = convolution(x.float().transpose(1, 2).unsqueeze(2))
    assert y.dtype == z.dtype == torch.bfloat16
    (y.float().sum() + z.float().sum()).backward()
    assert Linear(4, 3)(torch.zeros(0, 4)).shape == (0, 3)


def test_gradients_that_nobody_needs_are_not_computed() -> None:
    linear = Linear(4, 3)
    linear.weight.requires_grad_(False)
    linear(torch.randn(2, 4)).sum().backward()
    assert linear.weight.grad is None
    assert linear.bias.grad.tolist() == [2.0, 2.0, 2.0]


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel = 4: must be odd"):
        DepthwiseConv(8, 4)
