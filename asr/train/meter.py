"""Speed of training: seconds of audio per second, share of the time spent waiting for data, model
FLOPs utilisation; and the bar that shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from asr.data.examples import Batch
from asr.train.step import Totals

# Where there is no terminal for a progress bar, a line this often instead.
TELL_EVERY_S = 30.0


class Meter:
    """Adds up what happened since the last line of the log.

    Attributes:
        wall_s: seconds of training so far, validation and checkpoints not counted.
    """

    def __init__(self, num_steps: int, done: int, wall_s: float, peak: float | None, quiet: bool):
        """``peak``: operations per second of all devices together, None where unknown."""
        self.wall_s = wall_s
        self._peak, self._quiet, self._num_steps = peak, quiet, num_steps
        self._told_s = time.perf_counter()
        self._reset()
        self.restart()
        self.bar: tqdm[Any] = tqdm(
            total=num_steps,
            initial=done,
            desc="training",
            unit="step",
            smoothing=0.1,
            mininterval=1.0,
            dynamic_ncols=True,
            # off where the output is no terminal: a log file gets the epochs' lines
            disable=True if quiet else None,
        )

    def _reset(self) -> None:
        self._passed_s = self._waited_s = self._audio_s = self._flops = 0.0

    def restart(self) -> None:
        """Leave out of the speed what was done since the last step."""
        self._mark_s = time.perf_counter()

    def waiting(self, batches: Iterator[Batch], count: int) -> list[Batch]:
        """The next ``count`` batches; the time until they are there counts as waiting."""
        begun_s = time.perf_counter()
        taken = [next(batches) for _ in range(count)]
        self._waited_s += time.perf_counter() - begun_s
        return taken

    def step(self, totals: Totals) -> None:
        """A step's results are there."""
        now_s = time.perf_counter()
        passed_s, self._mark_s = now_s - self._mark_s, now_s
        self.wall_s += passed_s
        self._passed_s += passed_s
        self._audio_s += totals.audio_s
        self._flops += totals.flops
        self.bar.update()

    def take(self) -> dict[str, float]:
        """Speeds since the last call."""
        passed_s = max(self._passed_s, 1e-9)
        speeds = {
            "audio_s_per_s": self._audio_s / passed_s,
            "waiting": min(self._waited_s / passed_s, 1.0),
        }
        if self._peak is not None:
            speeds["mfu"] = self._flops / passed_s / self._peak
        self._reset()
        return speeds

    def show(self, step: int, loss: float | None, lr: float, speeds: dict[str, float]) -> None:
        """Show progress in the bar, or now and then as a line; no loss where none was finite."""
        text = "loss not finite" if loss is None else f"loss {loss:.3f}"
        text += f", lr {lr:.1e}, {speeds['audio_s_per_s']:.0f} s of audio/s"
        text += f", {100 * speeds['waiting']:.0f} % waiting"
        if "mfu" in speeds:
            text += f", MFU {100 * speeds['mfu']:.0f} %"
        self.bar.set_postfix_str(text)
        now_s = time.perf_counter()
        if self.bar.disable and not self._quiet and now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            print(f"step {step:6d} of {self._num_steps}  {text}", flush=True)

    def tell(self, line: str) -> None:
        """A line of its own, above the bar."""
        if not self._quiet:
            tqdm.write(line)
