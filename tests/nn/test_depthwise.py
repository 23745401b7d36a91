"""The depthwise convolution's kernels against F.conv1d in float64: in Triton's interpreter, on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreter import run_in_interpreter
from torch import Tensor

from asr.nn import depthwise
from asr.nn.depthwise import DepthwiseConv

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter")
# (utterances, frames, channels, taps): odd lengths, a partial sum that ends early, channels beyond one
# block and short of it, fewer frames than taps
SHAPES = [(2, 19, 12, 31), (1, 151, 70, 3), (2, 9, 20, 31), (2, 1, 5, 15), (2, 33, 64, 1)]


def run(x_btd: Tensor, weight: Tensor, bias: Tensor | None, direction_btd: Tensor) -> list[Tensor]:
    """y, then the gradients of what there is of x, weight, bias."""
    leaves = [
        None if v is None else v.detach().clone().requires_grad_() for v in (x_btd, weight, bias)
    ]
    y_btd = depthwise.depthwise_conv(*leaves)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [y_btd.detach(), *torch.autograd.grad(y_btd, wanted, direction_btd.to(y_btd.dtype))]


def expect(
    x_btd: Tensor, weight: Tensor, bias: Tensor | None, direction_btd: Tensor
) -> list[Tensor]:
    leaves = [
        None if v is None else v.detach().double().requires_grad_() for v in (x_btd, weight, bias)
    ]
    x, w, b = leaves
    dim, _, _, kernel = w.shape
    y_btd = torch.nn.functional.conv1d(x.mT, w[:, :, 0], b, padding=kernel // 2, groups=dim).mT
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [y_btd.detach(), *torch.autograd.grad(y_btd, wanted, direction_btd.double())]


def inputs(shape: tuple[int, ...], device: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    b, t, d, k = shape
    sizes = ((b, t, d), (d, 1, 1, k), (d,), (b, t, d))
    return [torch.randn(size).to(dtype).to(device) for size in sizes]


def check(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> None:
    made = inputs(shape, device, dtype)
    got, expected = run(*made), expect(*made)
    atol = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    for mine, other in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        largest = float(other.abs().max())
        torch.testing.assert_close(mine.double(), other, atol=atol * largest, rtol=0)
    again = run(*made)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))


@interpreted
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_in_the_interpreter(shape: tuple[int, ...]) -> None:
    check(shape, "cpu", torch.float32)


@interpreted
def test_half_precision_is_rounded_once_in_the_interpreter() -> None:
    check((1, 19, 12, 15), "cpu", torch.float16)


@interpreted
def test_without_bias_and_by_hand() -> None:
    x_btd, weight, _, direction_btd = inputs((1, 5, 3, 3), "cpu")
    got, expected = (f(x_btd, weight, None, direction_btd) for f in (run, expect))
    torch.testing.assert_close([g.double() for g in got], expected, atol=1e-5, rtol=0)
    # frame t takes 1 of the frame before, 10 of itself, 100 of the next; nothing beyond the ends
    weight = torch.tensor([1.0, 10.0, 100.0]).view(1, 1, 1, 3)
    y_btd = depthwise.depthwise_conv(
        torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1), weight, torch.tensor([0.5])
    )
    assert y_btd.flatten().tolist() == [210.5, 321.5, 32.5]


@interpreted
def test_any_steps_between_frames_and_utterances() -> None:
    x_btd, weight, bias, direction_btd = inputs((3, 11, 6, 5), "cpu")
    wide = torch.full((3, 30, 10), torch.nan)
    cut_btd = wide[:, 7:18, 2:8]
    cut_btd.copy_(x_btd)
    with torch.no_grad():
        y_btd = depthwise.depthwise_conv(cut_btd, weight, bias)
    torch.testing.assert_close(y_btd, run(x_btd, weight, bias, direction_btd)[0], atol=0, rtol=0)
    no_frames = depthwise.depthwise_conv(x_btd[:, :0], weight.requires_grad_(), bias)
    no_frames.sum().backward()
    assert no_frames.shape == (3, 0, 6)
    assert not weight.grad.any()


@interpreted
def test_autocast_is_that_of_pytorchs_convolution() -> None:
    x_btd, weight, bias, direction_btd = inputs((2, 21, 6, 5), "cpu")
    with torch.autocast("cpu", torch.float16):
        got = run(x_btd, weight, bias, direction_btd)
    assert [g.dtype for g in got] == [torch.float16, torch.float32, torch.float32, torch.float32]
    rounded = [v.half() for v in (x_btd, weight, bias, direction_btd)]
    for mine, other in zip(got, expect(*rounded), strict=True):
        torch.testing.assert_close(
            mine.double(), other, atol=1e-3 * float(other.abs().max()), rtol=0
        )


@interpreted
def test_the_operators_are_what_torch_library_asks_for() -> None:
    x_btd, weight, bias, dy_btd = inputs((2, 9, 6, 3), "cpu")
    taps_kd = weight[:, 0, 0].t().contiguous()
    leaves = [v.requires_grad_() for v in (x_btd, taps_kd, bias)]
    torch.library.opcheck(torch.ops.sigmoid_asr.depthwise, (*leaves,))
    torch.library.opcheck(torch.ops.sigmoid_asr.depthwise, (*leaves[:2], None))
    plain = (x_btd.detach(), dy_btd, 3)
    torch.library.opcheck(torch.ops.sigmoid_asr.depthwise_weight_grad, plain)


@interpreted
@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_without_a_graph_break(autocast: bool) -> None:
    torch._dynamo.reset()
    made = inputs((2, 9, 6, 3), "cpu")
    leaves = [v.requires_grad_() for v in made[:3]]
    compiled = torch.compile(depthwise.depthwise_conv, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", torch.float16, enabled=autocast):
        y_btd = compiled(*leaves)
        expected = run(*made)
    got = [y_btd.detach(), *torch.autograd.grad(y_btd, leaves, made[3].to(y_btd.dtype))]
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=0, rtol=0)


@interpreted
def test_second_derivatives_are_refused_not_wrong() -> None:
    x_btd, weight, bias, dy_btd = inputs((1, 5, 2, 3), "cpu")
    weight.requires_grad_()
    x_btd.requires_grad_()
    y_btd = depthwise.depthwise_conv(x_btd, weight, bias)
    (grad,) = torch.autograd.grad(y_btd, weight, dy_btd, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


def test_interpreted() -> None:
    """Run the tests above in a process of its own, so that nothing else is affected."""
    pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("this is that process")
    run_in_interpreter("not gpu", __file__)


def test_only_cuda_tensors_with_adjacent_channels_are_taken() -> None:
    weight = torch.zeros(4, 1, 1, 3)
    assert not depthwise.serves(torch.zeros(2, 5, 4), weight)
    fake = torch.zeros(2, 5, 4, device="meta")
    assert not depthwise.serves(fake, weight)


def test_forward_mode_derivatives_are_left_to_pytorch() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(depthwise._has_tangent(torch.zeros(1), x))
        return x

    x = torch.ones(3)
    f(x)
    torch.func.jvp(f, (x,), (x,))
    assert seen == [False, True]


def test_asr_does_not_import_the_kernels() -> None:
    code = "import sys, asr.nn.depthwise; assert 'asr.nn.depthwise_triton' not in sys.modules"
    path = os.pathsep.join([str(Path(depthwise.__file__).parents[2]), *sys.path])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 40, 48, 63), (5, 350, 512, 31)])
def test_outputs_and_gradients_on_a_gpu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(shape, "cuda", dtype)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_the_module_on_a_gpu(compiled: bool) -> None:
    torch.manual_seed(0)
    ours = DepthwiseConv(96, 31).cuda()
    theirs = torch.nn.Conv2d(96, 96, (1, 31), padding=(0, 15), groups=96).cuda()
    theirs.load_state_dict(ours.state_dict())
    x_btd = torch.randn(3, 77, 96, device="cuda")
    run_ours = torch.compile(ours, fullgraph=True) if compiled else ours
    results = []
    for module in (run_ours, theirs):
        module.zero_grad()
        leaf = x_btd.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            y = module(leaf.mT.unsqueeze(2))
        y.float().square().sum().backward()
        parameters = (ours if module is run_ours else theirs).parameters()
        results.append([y.detach().float(), leaf.grad, *(p.grad for p in parameters)])
    for mine, other in zip(*results, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, atol=2e-2 * float(other.abs().max()), rtol=0)
    # another layout and another type go PyTorch's way
    assert ours(torch.randn(2, 96, 1, 7, device="cuda")).shape == (2, 96, 1, 7)
    assert ours.double()(x_btd.double().mT.unsqueeze(2)).dtype == torch.float64
