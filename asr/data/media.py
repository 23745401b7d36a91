"""The sound of M4A, WebM and videos through PyAV, past damage and in its own time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asr.data.audio import frame_samples, packed_floats, reason_of
from asr.data.gaps import Gap, note_gap

MISSING = "the file has no sound of this time"

# Times of frames are rounded, and encoders leave out some silence: no more than this passes as such.
_LONGEST_PAUSE_S = 0.5
# Only a damaged file asks for more silence in all.
_MOST_SILENCE_S = 1800.0


def track_duration_s(container: Any) -> float:
    """How long the first audio track is, 0 where the container does not tell or only guesses."""
    stream = container.streams.audio[0]
    if container.start_time is None:  # bare frames (ADTS): guessed from the first ones' bit rate
        return 0.0
    if stream.duration is not None:
        return max(0.0, float(stream.duration * stream.time_base))
    end_s = 0.0
    if told := re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = told.groups()
        end_s = 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    elif len(container.streams) == 1 and container.duration is not None:
        end_s = container.duration / 1e6
    start_s = float((stream.start_time or 0) * stream.time_base)
    return max(0.0, end_s - start_s)


class PyavPieces:
    """The decoded frames (n, channels) of the first audio track, in order.

    Packets that cannot be decoded are passed over. What is missing between two frames, by their times,
    is silence and a gap, so that all that follows keeps its time.
    """

    def __init__(
        self, container: Any, rate: int, path: Path, gaps: list[Gap], notes: list[str]
    ) -> None:
        """
        Args:
            container: PyAV's; closed at the end.
            rate: of the track.
            gaps: what is missing is appended here while the pieces come,
            notes: and here, where nothing follows it.
        """
        self._container, self._rate, self._path = container, rate, path
        self._gaps, self._notes = gaps, notes
        stream = container.streams.audio[0]
        self._resampler, self._num_channels = packed_floats(stream, rate), stream.layout.nb_channels
        self._num_samples = 0
        self._end_s: float | None = None  # of the last frame, as the file counts
        self._damage = ""  # since then
        self._damaged_s = 0.0
        self._silence_left = int(_MOST_SILENCE_S * rate)

    def __iter__(self) -> Iterator[np.ndarray]:
        import av

        with self._container:
            try:
                for packet in self._container.demux(self._container.streams.audio[0]):
                    for frame in self._decoded(packet):
                        yield from self._pieces(frame)
                yield from self._converted(None)
            except (av.FFmpegError, EOFError) as error:
                self._damage = self._damage or reason_of(error)
        if self._damage:
            self._notes.append(f"{self._path}: damaged: decoding fails ({self._damage})")

    def _decoded(self, packet: Any) -> list[Any]:
        import av

        try:
            frames: list[Any] = packet.decode()
        except (av.FFmpegError, EOFError) as error:
            self._damage = self._damage or reason_of(error)
            if packet.duration:
                self._damaged_s += float(packet.duration * packet.time_base)
            return []
        return frames

    def _pieces(self, frame: Any) -> Iterator[np.ndarray]:
        missing = self._num_missing(frame)
        if missing or self._damage:
            self._note_missing(missing)
        while missing:
            part = min(missing, self._rate)
            missing -= part
            self._num_samples += part
            yield np.zeros((part, self._num_channels), np.float32)
        start_s = self._end_s if frame.time is None else frame.time
        if start_s is not None:
            self._end_s = start_s + frame.samples / frame.sample_rate
        yield from self._converted(frame)

    def _num_missing(self, frame: Any) -> int:
        """Samples between the last frame and this one."""
        known = frame.time is not None and self._end_s is not None
        missing_s = frame.time - self._end_s if known else 0.0
        if self._damage:
            missing_s = max(missing_s, self._damaged_s)
        elif missing_s < _LONGEST_PAUSE_S:
            return 0
        missing = round(missing_s * self._rate)
        return missing if missing <= self._silence_left else 0

    def _note_missing(self, missing: int) -> None:
        reason = f"damaged: decoding fails ({self._damage})" if self._damage else MISSING
        start_s = self._num_samples / self._rate
        note_gap(Gap(start_s, start_s + missing / self._rate, reason), self._gaps)
        self._damage, self._damaged_s = "", 0.0
        self._silence_left -= missing

    def _converted(self, frame: Any) -> Iterator[np.ndarray]:
        try:
            blocks = self._resampler.resample(frame)
        except ValueError:  # PyAV's, where rate or layout are no more what they were
            self._damage = self._damage or "another rate or other channels"
            self._damaged_s += frame.samples / frame.sample_rate
            return
        for block in blocks:
            samples_nc = frame_samples(block)
            self._num_samples += len(samples_nc)
            yield samples_nc
