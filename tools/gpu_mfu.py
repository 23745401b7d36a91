"""Model FLOPs utilisation of training on one resident batch, and where the time goes.

    python tools/gpu_mfu.py --out OUT                               # the 960 h preset, on a GPU
    python tools/gpu_mfu.py --out OUT --variants sigmoid+alibi softmax+none --batch-s 900 --eager
    python tools/gpu_mfu.py --out OUT --rehearse                    # a tiny model, on the CPU

Steps are those of `asr train`: forward, backward, clipping and fused AdamW by asr.train.step, bf16,
layers compiled. The batch lies on the device, so no loader is measured. OUT gets `mfu.json` and
`mfu.txt`, written anew after each measurement; what fails is noted there and passed over.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import itertools
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_profile import kernel_table, part_times
from torch._inductor import config as inductor_config
from torch.profiler import ProfilerActivity, profile

from asr import config as configuration
from asr.config import Config
from asr.data.examples import Batch
from asr.model.recogniser import Recogniser, count_parameters
from asr.nn import depthwise
from asr.processes import alone
from asr.train.engines import build_engine
from asr.train.flops import peak_flops
from asr.train.guards import rehearse
from asr.train.optimizer import build_optimizer, learning_rate
from asr.train.step import Step

PRESET = Path(__file__).parent.parent / "recipes/librispeech/conf/960h.yaml"
TINY = (
    "encoder.num_layers=2",
    "encoder.dim=64",
    "encoder.ff_dim=128",
    "encoder.conv_kernel=15",
    "encoder.subsampling_channels=16",
    "attention.num_heads=4",
)
PROFILED_STEPS = 3


class Clock:
    """Milliseconds between two marks: by the device's own events, by the host's clock on a CPU."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"

    def mark(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between_ms(self, first: Any, last: Any) -> float:
        if not self._cuda:
            return 1e3 * float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last))


def librispeech_like_s(count: int, rng: np.random.Generator) -> np.ndarray:
    """Durations like those of LibriSpeech's training parts: most of 11 to 17 s, a tail of shorter
    ones, 12.3 s in the mean, nothing above 17.5 s."""
    long_s = rng.triangular(10.0, 15.3, 17.2, count)
    short_s = rng.uniform(1.5, 11.0, count)
    return np.where(rng.random(count) < 0.74, long_s, short_s)


def make_batch(
    config: Config, vocab_size: int, batch_s: float, longest_s: float | None = None
) -> Batch:
    """Noise of neighbouring durations, as sorted batches have them: those around the length that the
    median second of audio lies in."""
    rng = np.random.default_rng(0)
    durations_s = np.sort(librispeech_like_s(20_000, rng))
    if longest_s is not None:
        durations_s = durations_s[durations_s <= longest_s]
    audio_s = np.cumsum(durations_s)
    middle = int(np.searchsorted(audio_s, audio_s[-1] / 2))
    count = max(int(batch_s / durations_s[middle]), 1)
    # neighbours among 20 000 are nearer than those that share a step of training: 5 % between them
    chosen_s = durations_s[middle] * np.linspace(0.95, 1.0, count)
    rate = config.features.sample_rate
    lens_b = torch.from_numpy((chosen_s * rate).astype(np.int64))
    wave_bn = torch.zeros(count, int(lens_b.max()))
    tokens = [max(int(3.2 * length / rate), 1) for length in lens_b.tolist()]
    for row, length in zip(wave_bn, lens_b.tolist(), strict=True):
        row[:length] = torch.from_numpy(0.1 * rng.standard_normal(length, dtype=np.float32))
    tokens_bu = torch.zeros(count, max(tokens), dtype=torch.int64)
    for row, length in zip(tokens_bu, tokens, strict=True):
        row[:length] = torch.from_numpy(rng.integers(1, vocab_size, length))
    return Batch(
        ids=tuple(f"utterance {number}" for number in range(count)),
        wave_bn=wave_bn,
        wave_lens_b=lens_b,
        tokens_bu=tokens_bu,
        token_lens_b=torch.tensor(tokens),
        audio_s=float(lens_b.sum()) / rate,
        speakers=("",) * count,
        texts=("",) * count,
    )


def resident(batch: Batch, device: torch.device) -> Batch:
    """Waves and tokens on the device; the lengths stay where training has them, on the host."""
    there = batch.to(device)
    lens_b, token_lens_b = batch.wave_lens_b, batch.token_lens_b
    if device.type == "cuda":
        lens_b, token_lens_b = lens_b.pin_memory(), token_lens_b.pin_memory()
    return replace(there, wave_lens_b=lens_b, token_lens_b=token_lens_b)


class Trained:
    """A model and everything that its steps need."""

    def __init__(self, config: Config, device: torch.device, compile_subsampling: bool = False):
        torch.manual_seed(config.train.seed)
        self.config, self.device = config, device
        vocab_size = config.tokenizer.vocab_size
        self.net = Recogniser(config, vocab_size).to(device).train()
        processes = alone(str(device))
        self.engine = build_engine(self.net, config.train, processes)
        if config.train.compile and compile_subsampling:
            self.net.encoder.subsampling.compile(dynamic=True)
        self.optimizer = build_optimizer(self.net, config.optimizer)
        self.step = Step(config, self.engine, self.optimizer)
        # operations are counted without compiling, on utterances of one length: no padding
        even = make_batch(config, vocab_size, 30.0)
        even = replace(even, wave_lens_b=torch.full_like(even.wave_lens_b, even.wave_bn.shape[1]))
        self.step.flops = rehearse(self.step, self.engine, self.optimizer, even)
        self.done = 0

    def launch(self, batches: list[Batch]) -> Any:
        self.done += 1
        lr = learning_rate(self.done, 10_000, self.config.optimizer)
        return self.step.launch(self.done, 0, lr, batches, [0.0, 0.0, 0.0])


def steps_ms(
    trained: Trained, batches: list[Batch], count: int
) -> tuple[list[float], float, float]:
    """Milliseconds of each step by the device, mean milliseconds that the host was busy with one, and
    the last loss per token."""
    clock = Clock(trained.device)
    marks, host_s, unread, totals = [clock.mark()], 0.0, None, None
    for _ in range(count):
        begun_s = time.perf_counter()
        launched = trained.launch(batches)
        marks.append(clock.mark())
        host_s += time.perf_counter() - begun_s
        if unread is not None:
            totals = unread.read()
        unread = launched
    assert unread is not None
    totals = unread.read()
    if not totals.finite:
        raise RuntimeError(f"loss or gradient not finite: loss {totals.loss}")
    times = [clock.between_ms(a, b) for a, b in itertools.pairwise(marks)]
    return times, 1e3 * host_s / count, totals.loss / totals.num_tokens


def measure(trained: Trained, batches: list[Batch], warm_up: int, count: int) -> dict[str, Any]:
    """Speed of steps of these batches; `first_s` holds what compiling and choosing kernels took."""
    device = trained.device
    begun_s = time.perf_counter()
    steps_ms(trained, batches, 1)
    first_s = time.perf_counter() - begun_s
    steps_ms(trained, batches, warm_up)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, host_ms, loss = steps_ms(trained, batches, count)
    ms = float(np.median(times))
    audio_s = sum(batch.audio_s for batch in batches)
    flops = sum(trained.step.flops.training(batch.wave_lens_b) for batch in batches)
    peak = peak_flops(device)
    return {
        "ms": ms,
        "ms_least": min(times),
        "ms_most": max(times),
        "host_ms": host_ms,
        "first_s": first_s,
        "audio_s": audio_s,
        "audio_s_per_s": 1e3 * audio_s / ms,
        "tflop_per_step": flops / 1e12,
        "tflop_per_s": flops / ms / 1e9,
        "mfu": None if peak is None else 1e3 * flops / ms / peak,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
        "loss_per_token": loss,
        "utterances": sum(len(batch) for batch in batches),
    }


def profiled(trained: Trained, batches: list[Batch]) -> dict[str, Any]:
    """The kernels of a few steps."""
    cuda = trained.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as trace:
        begun_s = time.perf_counter()
        steps_ms(trained, batches, PROFILED_STEPS)
        wall_ms = 1e3 * (time.perf_counter() - begun_s)
    return kernel_table(trace, wall_ms, PROFILED_STEPS, cuda)


class Report:
    """Measurements, written whole after each addition."""

    def __init__(self, out: Path, header: dict[str, Any]):
        self._out, self._lines = out, []  # type: Path, list[str]
        self._content: dict[str, Any] = {**header, "measurements": []}
        out.mkdir(parents=True, exist_ok=True)

    def add(self, entry: dict[str, Any], lines: list[str]) -> None:
        self._content["measurements"].append(entry)
        self._lines += lines
        print("\n".join(lines), flush=True)
        (self._out / "mfu.json").write_text(json.dumps(self._content, indent=1) + "\n")
        (self._out / "mfu.txt").write_text("\n".join(self._lines) + "\n")


def line(name: str, batch_s: float, compiled: bool, found: dict[str, Any]) -> str:
    mfu = "" if found["mfu"] is None else f"  MFU {100 * found['mfu']:5.1f} %"
    memory = "" if found["peak_gb"] is None else f"  {found['peak_gb']:5.1f} GB"
    return (
        f"{name:18s} {'compiled' if compiled else 'eager':8s} {batch_s:6.0f} s x {found['batches']}  "
        f"{found['ms']:8.2f} ms (host {found['host_ms']:.1f})  "
        f"{found['audio_s_per_s']:8.0f} s/s  {found['tflop_per_s']:6.1f} TFLOP/s{mfu}{memory}  "
        f"first step {found['first_s']:.1f} s"
    )


def one_model(
    args: argparse.Namespace, name: str, compiled: bool, device: torch.device, report: Report
) -> None:
    """All batch sizes of one variant; the first variant's largest batch is profiled too."""
    weighting, position = name.split("+")
    overrides = [
        f"attention.weighting={weighting}",
        f"attention.position={position}",
        f"train.compile={str(compiled).lower()}",
        f"train.precision={args.precision}",
        *(TINY if args.rehearse else ()),
        *args.set,
    ]
    torch.compiler.reset()
    config = configuration.load([args.config], overrides)
    trained = Trained(config, device, args.compile_subsampling)
    trained_size = count_parameters(trained.net)
    for batch_s in args.batch_s:
        if time.monotonic() > args.until:
            report.add({"name": name, "skipped": "out of time"}, [f"{name}: out of time"])
            return
        batch = resident(make_batch(config, config.tokenizer.vocab_size, batch_s), device)
        batches = [batch] * args.accumulate
        found = measure(trained, batches, args.warm_up, args.steps)
        found |= {"name": name, "compiled": compiled, "batch_s": batch_s, "batches": len(batches)}
        found |= {"parameters": trained_size, "backend": trained.net.attention_backend()}
        lines = [line(name, batch_s, compiled, found)]
        if f"{name}:{batch_s:g}" in args.profile:
            found["profile"] = profiled(trained, batches)
            lines += found["profile"].pop("lines")
        if f"{name}:{batch_s:g}" in args.parts:
            found["parts"] = part_times(trained, batch, Clock(device))
            lines += found["parts"].pop("lines")
        report.add(found, lines)


def attempt(report: Report, what: dict[str, Any], run: Callable[[], None]) -> None:
    """Runs; a failure is an entry like any other."""
    try:
        run()
    except Exception as error:  # the next measurement may well go
        reason = "".join(traceback.format_exception(error)[-6:])
        report.add({**what, "error": reason}, [f"{what}: {type(error).__name__}: {error}"[:600]])


def inductor_options(assignments: list[str]) -> dict[str, Any]:
    """Numbers, True, False and None as Python writes them, by their keys."""
    pairs = [assignment.split("=", 1) for assignment in assignments]
    if unknown := [key for key, _ in pairs if key not in inductor_config.get_config_copy()]:
        raise SystemExit(f"torch._inductor.config has no {', '.join(unknown)}")
    return {key: ast.literal_eval(value) for key, value in pairs}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for mfu.json and mfu.txt")
    add("--config", type=Path, default=PRESET)
    add("--set", nargs="*", default=[], metavar="KEY=VALUE", help="more options")
    add("--variants", nargs="+", default=["sigmoid+alibi", "softmax+none", "sigmoid+none"])
    add("--batch-s", nargs="+", type=float, default=[450.0, 900.0, 1800.0])
    add("--accumulate", type=int, default=1, help="batches of an optimiser step")
    add("--eager", nargs="*", default=[], help="variants to measure without compiling too")
    add("--profile", nargs="*", default=["sigmoid+alibi:900"], help="VARIANT:SECONDS to profile")
    add("--parts", nargs="*", default=["sigmoid+alibi:900"], help="VARIANT:SECONDS to take apart")
    add("--precision", default="bf16", choices=("bf16", "fp32"))
    add("--warm-up", type=int, default=4)
    add("--steps", type=int, default=12)
    add("--seconds", type=float, default=100.0, help="begin nothing new after so long")
    add("--cudnn-benchmark", action="store_true")
    add("--no-depthwise", action="store_true", help="PyTorch's kernels for depthwise convolutions")
    add("--compile-subsampling", action="store_true", help="compile it as the layers are")
    add(
        "--inductor",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="options of torch._inductor.config, as triton.mix_order_reduction=False",
    )
    add("--rehearse", action="store_true", help="a tiny model and short batches, on any device")
    args = parser.parse_args()
    args.until = time.monotonic() + args.seconds
    if args.rehearse:
        args.batch_s, args.steps, args.warm_up = [30.0], 2, 1
        args.profile = args.parts = [f"{args.variants[0]}:30"]
    return args


def main() -> None:
    args = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    depthwise.ENABLED = not args.no_depthwise
    inductor_config.load_config(inductor_options(args.inductor))
    header = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark": args.cudnn_benchmark,
        "depthwise": depthwise.ENABLED,
        "inductor": inductor_options(args.inductor),
        "compile_subsampling": args.compile_subsampling,
        "config": args.config.name,
        "set": args.set,
    }
    report = Report(args.out, header)
    compiled = [(name, True) for name in args.variants]
    for name, compile_ in [*compiled, *((name, False) for name in args.eager)]:
        if time.monotonic() > args.until:
            report.add({"name": name, "skipped": "out of time"}, [f"{name}: out of time"])
            continue
        what = {"name": name, "compiled": compile_}
        run = functools.partial(one_model, args, name, compile_, device, report)
        attempt(report, what, run)
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
