"""What a manifest says of the files of the cut that a thread is loading.

Lhotse reads whole files without passing it on, and does not compare it with what it finds.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

from lhotse.cut import Cut, MixedCut, MonoCut

from asr.data.audio.error import AudioError

_ROUNDING_S = 1e-6  # of durations in manifests


class Told(NamedTuple):
    """Length, rate and channels by a manifest; None where it does not tell."""

    seconds: float = math.inf
    rate: int | None = None
    channels: int | None = None

    def check(self, name: object, rate: int, num_channels: int) -> None:
        """
        Raises:
            AudioError: the file is another than it says.
        """
        if self.rate is not None and rate != self.rate:
            raise AudioError(
                f"{name}: has {rate} samples per second, the manifest says {self.rate!r}"
            )
        if self.channels is not None and num_channels != self.channels:
            raise AudioError(
                f"{name}: has {num_channels} channels, the manifest says {self.channels}"
            )


NOTHING_TOLD = Told()
expected = threading.local()  # ``told`` of the cut that this thread loads


def what_is_told(cut: Cut) -> Told:
    """Return what a manifest says of the files of a cut, as far as it says one thing of all of them.

    Transforms change lengths and rates, and recordings hold them as they are afterwards.
    """
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    recordings = [part.recording for part in parts if getattr(part, "recording", None) is not None]
    if not recordings or any(recording.transforms for recording in recordings):
        return NOTHING_TOLD
    rates = {recording.sampling_rate for recording in recordings}
    counts = {len(source.channels) for one in recordings for source in one.sources}
    is_one = type(cut) is MonoCut
    return Told(
        float(recordings[0].duration) - _ROUNDING_S if is_one else math.inf,
        rates.pop() if len(rates) == 1 else None,
        counts.pop() if len(counts) == 1 else None,
    )
