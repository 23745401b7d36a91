"""The depthwise convolution's Triton kernels beside PyTorch's convolution."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton")
CUDA = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(
    not CUDA and os.environ.get("TRITON_INTERPRET") != "1",
    reason="neither a GPU nor TRITON_INTERPRET=1",
)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("batch", "frames", "dim", "kernel"), [(2, 70, 40, 31), (1, 9, 64, 15)])
def test_output_and_gradients_are_the_convolutions(
    batch: int, frames: int, dim: int, kernel: int, dtype: torch.dtype
) -> None:
    from asr.nn.taps import taps

    torch.manual_seed(0)
    device = "cuda" if CUDA else "cpu"
    x_btd = torch.randn(batch, frames, dim, device=device).to(dtype).requires_grad_()
    weight_dk = torch.randn(dim, kernel, device=device).requires_grad_()
    bias_d = torch.randn(dim, device=device).requires_grad_()
    leaves = (x_btd, weight_dk, bias_d)
    grad_btd = torch.randn(batch, frames, dim, device=device).to(dtype)
    y_btd = taps(*leaves)
    grads = torch.autograd.grad(y_btd, leaves, grad_btd)
    again = torch.autograd.grad(taps(*leaves), leaves, grad_btd)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected_btd = torch.nn.functional.conv1d(
        exact[0].transpose(1, 2), exact[1][:, None], exact[2], padding=kernel // 2, groups=dim
    ).transpose(1, 2)
    expected = torch.autograd.grad(expected_btd, exact, grad_btd.double())
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for got, right in zip([y_btd, *grads], [expected_btd, *expected], strict=True):
        error = (got.double() - right).abs().max() / right.abs().max()
        assert error < bound
    for first, second in zip(grads, again, strict=True):
        assert torch.equal(first, second)
