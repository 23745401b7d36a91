"""Profile of the time of a training step: its kernels by kind, and its parts one by one."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import profile

from asr.data.augment import spec_augment
from asr.data.draws import utterance_rng
from asr.nn import depthwise
from asr.nn.frames import Frames, frame_mask

ROWS = 25
# The first that matches a kernel's name says what kind it is.
KINDS = (
    ("attention", r"forward_kernel|query_kernel|key_kernel|offset_kernel|flash|fmha|attend"),
    ("depthwise convolution", r"depthwise|dw_conv|convolve_kernel|correlate_kernel"),
    ("optimiser", r"multi_tensor|adam|lpnorm"),
    ("ctc", r"ctc"),
    ("fft", r"fft|regular_fft|vector_fft"),
    ("convolution", r"conv|wgrad|dgrad|fprop|cudnn|nhwc|nchw"),
    ("matrix product", r"gemm|cutlass|cublas|nvjet|splitk|xmma|s16816"),
    ("compiled elementwise", r"^triton_"),
    ("copy", r"memcpy|memset|copy"),
    ("reduction", r"reduce|softmax|norm"),
    ("elementwise", r"elementwise|vectorized|unrolled|index|gather|scatter|cat"),
)


def kind_of(name: str) -> str:
    lowered = name.lower()
    return next((kind for kind, words in KINDS if re.search(words, lowered)), "other")


def kernel_table(trace: profile, wall_ms: float, steps: int, cuda: bool) -> dict[str, Any]:
    """Milliseconds a step of each kernel and of each kind; `busy` is the device's share of the time
    (of the profiled steps, which the profiler slows down on the host)."""
    wanted = DeviceType.CUDA if cuda else DeviceType.CPU
    rows = []
    for event in trace.key_averages():
        if event.device_type != wanted:
            continue
        us = event.self_device_time_total if cuda else event.self_cpu_time_total
        if us > 0:
            rows.append({"name": event.key, "calls": event.count / steps, "ms": us / 1e3 / steps})
    rows.sort(key=lambda row: -row["ms"])
    kinds: dict[str, float] = defaultdict(float)
    for row in rows:
        kinds[kind_of(row["name"])] += row["ms"]
    total_ms = sum(kinds.values())
    by_kind = dict(sorted(kinds.items(), key=lambda pair: -pair[1]))
    lines = [f"  kernels {total_ms:.2f} ms a step, {sum(r['calls'] for r in rows):.0f} launches:"]
    lines += [f"    {ms:8.3f} ms  {100 * ms / total_ms:5.1f} %  {k}" for k, ms in by_kind.items()]
    lines.append(f"  the {ROWS} that take the most:")
    lines += [f"    {r['ms']:8.3f} ms  {r['calls']:6.1f} x  {r['name'][:110]}" for r in rows[:ROWS]]
    return {
        "kernel_ms": total_ms,
        "wall_ms": wall_ms / steps,
        "busy": total_ms * steps / wall_ms,
        "launches": sum(row["calls"] for row in rows),
        "kinds_ms": by_kind,
        "top": [{**row, "name": row["name"][:160]} for row in rows[: 2 * ROWS]],
        "lines": lines,
    }


def part_times(trained: Any, batch: Any, clock: Any, repeats: int = 6) -> dict[str, Any]:
    """Milliseconds forward + backward of each part of a step by itself, one layer's as compiled as
    training has it. Of a part that fails the reason."""
    parts = _parts(trained, batch)
    found: dict[str, Any] = {}
    for name, (times, run) in parts.items():
        try:
            with torch.autocast(trained.device.type, torch.bfloat16, enabled=trained.step._bf16):
                for _ in range(3):
                    run()
                marks = [clock.mark()]
                for _ in range(repeats):
                    run()
                    marks.append(clock.mark())
            spent = sorted(clock.between_ms(a, b) for a, b in itertools.pairwise(marks))
            found[name] = {"ms": spent[len(spent) // 2], "times_a_step": times}
        except Exception as error:  # a part that cannot run alone hides none of the others
            found[name] = {"error": f"{type(error).__name__}: {error}"[:300]}
    lines = ["  parts, forward + backward (ms x how often in a step):"]
    for name, row in found.items():
        if "error" in row:
            lines.append(f"    {name}: {row['error']}")
        else:
            lines.append(f"    {row['ms']:8.3f} x {row['times_a_step']:2d}  {name}")
    return {"of": found, "lines": lines}


def _parts(trained: Any, batch: Any) -> dict[str, tuple[int, Callable[[], None]]]:
    net, config, device = trained.net, trained.config, trained.device
    there = batch.to(device)
    with torch.no_grad():
        feats_btf, feat_lens_b = net.normalised_features(there.wave_bn, there.wave_lens_b)
        x_btd, lens_b = net.encoder.subsampling(feats_btf, feat_lens_b)
    half = torch.bfloat16 if trained.step._bf16 else torch.float32
    x_btd = x_btd.detach().to(half).requires_grad_()
    mask = Mask(key_lens=lens_b, query_lens=lens_b)
    frames = Frames(frame_mask(lens_b, x_btd.shape[1]), mask)
    layer, count = net.encoder.layers[0], len(net.encoder.layers)

    def through(module: nn.Module, *args: Any) -> Callable[[], None]:
        grad: list[Tensor] = []

        def run() -> None:
            output = module(*args)
            output = output[0] if isinstance(output, tuple) else output
            if not grad:
                grad.append(torch.randn_like(output))
            output.backward(grad[0])
            module.zero_grad(set_to_none=True)
            x_btd.grad = None

        return run

    def features() -> None:
        net.normalised_features(there.wave_bn, there.wave_lens_b)

    def augment() -> None:
        rngs = [utterance_rng(1, 0, name, "specaugment") for name in batch.ids]
        spec_augment(feats_btf, feat_lens_b, rngs, config.augment)

    def head() -> None:
        own = net.head()
        frames_btx = own.frames(x_btd)
        loss_b = own.loss_of_frames(frames_btx, lens_b, there.tokens_bu, there.token_lens_b)
        loss_b.sum().backward()
        net.heads.zero_grad(set_to_none=True)
        x_btd.grad = None

    def update() -> None:
        for parameter in net.parameters():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        trained.engine.clip(1.0)
        trained.optimizer.step()

    return {
        "features (forward only)": (1, features),
        "SpecAugment (forward only)": (1, augment),
        "subsampling": (1, through(net.encoder.subsampling, feats_btf, feat_lens_b)),
        "layer, as in training": (count, through(layer, x_btd, frames)),
        "layer's feed-forward, eager": (2 * count, through(layer.ff_before, x_btd, frames)),
        "layer's attention, eager": (count, through(layer.attention, x_btd, frames)),
        "layer's convolution, eager": (count, through(layer.convolution, x_btd, frames)),
        "depthwise convolution alone": (count, _depthwise(layer, x_btd)),
        "the same by PyTorch": (count, _by_pytorch(_depthwise(layer, x_btd))),
        "head and CTC": (1, head),
        "clip and update": (1, update),
    }


def _by_pytorch(run: Callable[[], None]) -> Callable[[], None]:
    def other() -> None:
        before, depthwise.ENABLED = depthwise.ENABLED, False
        try:
            run()
        finally:
            depthwise.ENABLED = before

    return other


def _depthwise(layer: Any, x_btd: Tensor) -> Callable[[], None]:
    module = layer.convolution.branch.depthwise
    grad_btd = torch.randn_like(x_btd)

    def run() -> None:
        y_bd1t = module(x_btd.transpose(1, 2).unsqueeze(2))
        y_bd1t.squeeze(2).transpose(1, 2).backward(grad_btd)
        module.zero_grad(set_to_none=True)
        x_btd.grad = None

    return run
