"""`asr train --profile`: a trace of a few steps for a look at where the time goes."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from asr.files import write_atomically

# The first steps allocate and choose kernels; they would hide what the others spend.
WARM_UP_STEPS, STEPS = 3, 5
ROWS = 40


class Profile:
    """Leaves ``trace.json`` (for chrome://tracing or ui.perfetto.dev) and ``summary.txt`` in a folder
    once enough steps are done; training goes on."""

    def __init__(self, folder: Path, device: torch.device):
        self._folder, self._cuda = folder, device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=1, warmup=WARM_UP_STEPS - 1, active=STEPS, repeat=1),
            on_trace_ready=self._write,
        )

    def _write(self, profiled: profile) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        profiled.export_chrome_trace(str(self._folder / "trace.json"))
        by = "self_cuda_time_total" if self._cuda else "self_cpu_time_total"
        table = profiled.key_averages().table(sort_by=by, row_limit=ROWS)
        write_atomically(self._folder / "summary.txt", f"{STEPS} steps\n{table}\n")

    def step(self) -> None:
        """A step was launched."""
        self._profile.step()

    def __enter__(self) -> Profile:
        self._profile.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._profile.__exit__(kind, error, trace)
