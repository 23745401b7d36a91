"""Times on a GPU without Python in them: several calls in a CUDA graph, replays between events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

REPLAYS = 7
WORK_MS = 3.0  # of one replay; seven of them and the first, which is not counted, make one figure
MOST_CALLS = 20

Run = Callable[[], Any]


class Clock:
    """Times calls on one device; on the CPU by the wall clock, for rehearsals."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.stream = torch.cuda.Stream() if device == "cuda" else None

    def forward(self, run: Run) -> dict[str, Any]:
        """Of a call without gradients."""

        def step() -> None:
            with torch.no_grad():
                run()

        return self._time(step, lambda: None)

    def backward(self, run: Run, leaves: list[Tensor], do: Tensor) -> dict[str, Any]:
        """Of the gradients alone: the forward runs once, outside."""
        held: dict[str, Tensor] = {}

        def prepare() -> None:
            held["o"] = run()

        def step() -> None:
            torch.autograd.grad(held["o"], leaves, do, retain_graph=True, allow_unused=True)

        return self._time(step, prepare)

    def _time(self, step: Run, prepare: Run) -> dict[str, Any]:
        if self.stream is None:
            prepare()
            start = time.perf_counter()
            step()
            return {"ms": (time.perf_counter() - start) * 1e3, "graph": False}
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):  # the backward runs on its forward's stream
            prepare()
            for _ in range(2):
                step()
            self.stream.synchronize()
            once_ms = self._events(step)
            calls = int(max(1, min(MOST_CALLS, WORK_MS / max(once_ms, 1e-3))))
            try:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self.stream):
                    for _ in range(calls):
                        step()
                captured, why = graph.replay, ""
            except RuntimeError as problem:
                torch.cuda.synchronize()
                captured, why = None, str(problem).splitlines()[0][:120]

            def several() -> None:
                for _ in range(calls):
                    step()

            replay: Run = captured or several
            replay()
            times = [self._events(replay) / calls for _ in range(REPLAYS)]
        found = {"ms": statistics.median(times), "least_ms": min(times), "most_ms": max(times)}
        return {
            **found,
            "calls": calls,
            "graph": captured is not None,
            **({"why": why} if why else {}),
        }

    def _events(self, step: Run) -> float:
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        step()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended)


def peak_mb(device: str, step: Run) -> float | None:
    """The peak of allocated memory during a call beyond what was held before it."""
    if device != "cuda":
        step()
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def roofs(device: str, size: int = 8192) -> dict[str, float]:
    """Rates that nothing exceeds: a product of bfloat16 matrices, a copy (read and written)."""
    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.randn(size, size, device=device)  # 268 MB
    clock = Clock(device)
    product = clock.forward(lambda: torch.mm(a, b, out=out))["ms"]
    target = torch.empty_like(source)
    copy = clock.forward(lambda: target.copy_(source))["ms"]
    return {
        "product_tflops": 2.0 * size**3 / product / 1e9,
        "copy_tb_per_s": 2.0 * source.nbytes / copy / 1e9,
    }


def kernel_us(run: Callable[[], None], device: str) -> dict[str, list[float]]:
    """How often each kernel runs in a call, and its microseconds; the 30 that take longest."""
    kind = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA

    def whole() -> None:
        run()
        if device != "cpu":
            torch.cuda.synchronize()

    whole()
    with profile(activities=[kind], acc_events=True) as seen:
        for _ in range(3):
            whole()
    found = sorted(seen.key_averages(), key=lambda e: -e.self_device_time_total)[:30]
    return {e.key[:90]: [e.count / 3, e.self_device_time_total / 3] for e in found}
