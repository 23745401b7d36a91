"""Selection of the utterances that can be trained on, with reasons for the others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from asr.config import DataConfig
from asr.data.store.index import NO_TEXT, CutTable
from asr.data.store.manifest import LeftOut

NumFrames = Callable[[Tensor], Tensor]
"""From counts of samples to the frames that heads get, element by element."""


class Sieve:
    """Looks at columns only, whatever their length; names of what is left out are read on demand.

    Attributes:
        kept: indices of the cuts to train on.
    """

    def __init__(
        self,
        table: CutTable,
        needed_frames: np.ndarray,
        data: DataConfig,
        *,
        num_frames: NumFrames,
        sample_rate: int,
        fastest: float,
    ) -> None:
        """
        Args:
            needed_frames: for each cut's text, or ``NO_TEXT``.
            num_frames: what heads get.
            fastest: the highest speed at which a cut is played.
        """
        self._table, self._needed, self._fastest = table, needed_frames, fastest
        # Two samples short of the plan: the resampler may round down.
        num_samples = (table.durations_s * sample_rate / fastest).astype(np.int64) - 2
        self._frames = num_frames(torch.from_numpy(num_samples.clip(min=0))).numpy()
        too_short = f"shorter than data.min_duration_s = {data.min_duration_s:g}"
        too_long = f"longer than data.max_duration_s = {data.max_duration_s:g}"
        self._found: dict[str, np.ndarray] = {}
        self._detail: dict[str, Callable[[int], str]] = {}
        left = np.ones(len(table), dtype=bool)
        for reason, applies, detail in (
            (too_short, table.durations_s < data.min_duration_s, self._duration),
            (too_long, table.durations_s > data.max_duration_s, self._duration),
            ("no text after normalisation", needed_frames == NO_TEXT, self._text),
            ("too many tokens for its frames", needed_frames > self._frames, self._fit),
        ):
            self._found[reason] = np.flatnonzero(applies & left)
            self._detail[reason] = detail
            left &= ~applies
        self.kept = np.flatnonzero(left)

    def left_out(self) -> tuple[LeftOut, ...]:
        """Every cut that was left out, in the table's order."""
        found = [(int(i), reason) for reason, indices in self._found.items() for i in indices]
        return tuple(self._explain(index, reason) for index, reason in sorted(found))

    def counts(self) -> dict[str, int]:
        """Count the cuts left out for each reason, the most frequent first."""
        counts = {reason: len(indices) for reason, indices in self._found.items() if len(indices)}
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))

    def describe(self) -> str:
        """One line: counts, reasons, and one cut by name for each."""
        lines = []
        for reason, count in self.counts().items():
            first = self._explain(int(self._found[reason][0]), reason)
            lines.append(f"{count} left out, {reason} (first: {first.id}, {first.detail})")
        return "; ".join(lines) or "no utterance left out"

    def _explain(self, index: int, reason: str) -> LeftOut:
        return LeftOut(str(self._table[index].id), reason, self._detail[reason](index))

    def _duration(self, index: int) -> str:
        return f"{self._table.durations_s[index]:.2f} s"

    def _text(self, index: int) -> str:
        return repr(self._table.text(index))

    def _fit(self, index: int) -> str:
        at_speed = f" at speed {self._fastest:g}" if self._fastest != 1.0 else ""
        return f"{self._needed[index]} frames needed, {self._frames[index]} there{at_speed}"
