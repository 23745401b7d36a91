"""Depthwise convolutions against PyTorch's own in float64, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asr.nn.depthwise import DepthwiseConv


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
    convolution = DepthwiseConv(4, 3).double()
    x = torch.randn(2, 4, 1, 5, dtype=torch.float64)
    assert convolution(x).dtype == torch.float64
    convolution = convolution.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = convolution(x.float())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel = 4: must be odd"):
        DepthwiseConv(8, 4)
