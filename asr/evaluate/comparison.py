"""The result of comparing experiments: what the table, the Markdown and the JSON are made of."""

from __future__ import annotations

from dataclasses import dataclass

from asr.evaluate.experiment import Run
from asr.evaluate.statistics import Interval
from asr.wer import ErrorCounts


@dataclass(frozen=True)
class SetResult:
    """One system on one test set.

    Attributes:
        wer: a fraction, None without reference words.
        interval: of the WER, None where there are fewer than two units to resample.
        unit: what was resampled, ``speaker`` or ``utterance``.
        rtf: seconds of decoding per second of audio.
    """

    counts: ErrorCounts
    wer: float | None
    interval: Interval | None
    unit: str
    num_utterances: int
    num_speakers: int
    normaliser: str
    search: str | None
    beam: int | None
    rtf: float | None
    device: str | None


@dataclass(frozen=True)
class Row:
    """One system; sets by name."""

    name: str
    folder: str
    run: Run
    sets: dict[str, SetResult]


@dataclass(frozen=True)
class Difference:
    """A system's WER minus the first system's on the same utterances, as fractions.

    Attributes:
        p_value: two-sided, of no difference; of this one comparison, not of all of them together.
        better_share: share of the resamples in which the system had fewer errors than the first.
    """

    name: str
    baseline: str
    set_name: str
    difference: float
    interval: Interval | None
    p_value: float | None
    better_share: float | None
    unit: str


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    differences: paired ones; a pair whose utterances differ has a note instead.
    notes: what a reader must know before believing the table, most important first.
    """

    rows: list[Row]
    differences: list[Difference]
    notes: list[str]
    level: float
    num_resamples: int
    seed: int

    @property
    def set_names(self) -> list[str]:
        """Every test set of any system, in sorted order."""
        return sorted({name for row in self.rows for name in row.sets})
