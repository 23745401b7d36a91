"""A cut's audio of any length in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from lhotse.cut import Cut

from asr.data.audio.blocks import BLOCK_S, convert
from asr.data.audio.gaps import Gap
from asr.data.store.manifest import load_waveform


def read_cut_blocks(cut: Cut, sample_rate: int, gaps: list[Gap]) -> Iterator[np.ndarray]:
    """Read a Lhotse cut through Lhotse, as ``read_blocks`` a file: the cut itself says its channels.

    Raises:
        InputError: names the cut, the file and the reason.
    """

    def pieces() -> Iterator[np.ndarray]:
        start_s = 0.0
        while start_s < cut.duration:
            length_s = min(BLOCK_S, cut.duration - start_s)
            whole = length_s == cut.duration
            piece = cut if whole else cut.truncate(offset=start_s, duration=length_s)
            yield load_waveform(piece, cut.sampling_rate)[:, None]
            start_s += BLOCK_S

    yield from convert(pieces(), cut.sampling_rate, sample_rate, gaps, None, f"cut {cut.id}")
