"""Segments and words from the frames of one input, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from asr.search.factory import Search
from asr.search.units import Units
from asr.transcribe.pieces import Piece, PieceCutter
from asr.transcribe.result import Alternative, Segment


@dataclass(frozen=True)
class Reader:
    """Conversion of a head's frames into words.

    Attributes:
        frame_s: seconds from one frame to the next.
    """

    search: Search
    units: Units
    frame_s: float

    def read(self, piece: Piece) -> Segment | None:
        """The words of a piece, None where it has none."""
        frames_tx = piece.frames_tx
        lens_b = torch.tensor([len(frames_tx)])
        frames_btx = torch.from_numpy(frames_tx)[None]
        found = self.search(frames_btx, lens_b)[0]
        start_s = piece.first_frame * self.frame_s
        words = tuple(
            replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s)
            for word in self.search.words(frames_btx[0], found[0], self.units, self.frame_s)
        )
        if not words:
            return None
        spelled = [Alternative(" ".join(self.units.spell(one.tokens)), one.score) for one in found]
        return Segment(
            text=" ".join(word.text for word in words),
            start_s=words[0].start_s,
            end_s=words[-1].end_s,
            words=words,
            alternatives=tuple(spelled) if len(spelled) > 1 else (),
            note=found[0].stopped,
        )


class Assembler:
    """Collector of segments from frames in order."""

    def __init__(self, reader: Reader):
        self._reader = reader
        self._cutter = PieceCutter(reader.search, reader.units, reader.frame_s)
        self._segments: list[Segment] = []

    def push(self, first_frame: int, frames_tx: np.ndarray, ends_span: bool) -> None:
        """Frames (frames, channels) from number ``first_frame`` on; after a span's end some may be
        left out."""
        pieces = self._cutter.push(first_frame, frames_tx)
        if ends_span:
            pieces += self._cutter.flush()
        for piece in pieces:
            segment = self._reader.read(piece)
            if segment is not None:
                self._segments.append(segment)

    def segments(self, duration_s: float) -> tuple[Segment, ...]:
        """All of them; the last frame may reach past the last sample, no word does."""
        return tuple(within(segment, duration_s) for segment in self._segments)


def within(segment: Segment, duration_s: float) -> Segment:
    """The segment with no time beyond ``duration_s``."""
    if segment.end_s <= duration_s:
        return segment
    words = tuple(
        replace(word, start_s=min(word.start_s, duration_s), end_s=min(word.end_s, duration_s))
        for word in segment.words
    )
    return replace(segment, start_s=words[0].start_s, end_s=words[-1].end_s, words=words)
