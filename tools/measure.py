"""What every benchmark needs: times, peaks of memory, and where and with what it ran."""

from __future__ import annotations

import ctypes
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

Step = Callable[[], None]


def timed_ms(step: Step) -> float:
    """Milliseconds of one call; waits for a GPU where one is in use."""
    _wait()
    start = time.perf_counter()
    step()
    _wait()
    return (time.perf_counter() - start) * 1e3


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved_ms(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Each step once per round, each round beginning with the next step: a busy machine slows all
    alike and nobody always follows the same neighbour. One round before that is not counted."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-1, rounds):
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            took_ms = timed_ms(steps[name])
            if number >= 0:
                times[name].append(took_ms)
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def peak_extra_mb(step: Step) -> float:
    """The peak of resident memory during a call beyond what was held before it; NaN where the system
    does not tell (anything but Linux)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier would be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    except (OSError, AttributeError):
        return float("nan")
    before_kb = status_kb("VmRSS")
    step()
    return (status_kb("VmHWM") - before_kb) / 1e3


def peak_extra_gpu_mb(step: Step) -> float:
    """The peak of a GPU's allocated memory during a call beyond what was held before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def status_kb(name: str) -> float:
    """A size of this process that Linux's /proc/self/status tells."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1]) * 1.024  # its kB are 1024 bytes
    raise ValueError(f"/proc/self/status has no {name}")


def environment(program: str, packages: Sequence[str]) -> dict[str, Any]:
    """Command, commit, versions, processor and threads."""
    return {
        "command": " ".join([program, *sys.argv[1:]]),
        "commit": _git("rev-parse", "--verify", "--quiet", "HEAD")
        + ("+" if _git("status", "--porcelain") else ""),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "load_average": _load(),
    }


def _git(*command: str) -> str:
    where = Path(__file__).parent
    done = subprocess.run(["git", *command], capture_output=True, text=True, cwd=where, check=False)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's name as its maker gives it, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def _load() -> float | None:
    """Processes that wanted a core during the last minute: other people's work, seen before ours."""
    path = Path("/proc/loadavg")
    return float(path.read_text().split()[0]) if path.exists() else None
