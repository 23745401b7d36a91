"""The sound of M4A, WebM and videos through PyAV, past damage and in its own time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from asr.data.audio.containers import open_container
from asr.data.audio.error import AudioError, reason_of
from asr.data.audio.stretches import Loss

MISSING = "the file has no sound of this time"

# Times of frames are rounded, and encoders leave out some silence: no more than this passes as such.
_LONGEST_PAUSE_S = 0.5
# Only a damaged file asks for more silence in all.
_MOST_SILENCE_S = 1800.0
# Containers count encoder padding or round, and a track may end before them.
_DURATION_TOLERANCE_S = 0.5


class PyavItems:
    """The decoded frames (n, channels) of an audio track and what is missing between them, in order.

    Packets that cannot be decoded are passed over. What is missing between two frames, by their times,
    is a loss, so that all that follows keeps its time.

    Attributes:
        rate, num_channels: of the track.
    """

    promised = 0  # what containers say is too vague to count samples by

    def __init__(self, source: Path | BinaryIO, name: object, track: int | None) -> None:
        """
        Args:
            name: what error messages call the source.
            track: the audio track to take, from 0; None is the default one.

        Raises:
            AudioError: not a container that FFmpeg reads, no such track, or one without a decoder.
        """
        self._container = _open(source, name)
        try:
            self._stream = _choose_track(self._container, name, track)
            self.rate = _track_rate(self._stream, name)
        except AudioError:
            self._container.close()
            raise
        self.num_channels = int(self._stream.layout.nb_channels)
        # Floats of one plane: with a plane per channel PyAV reads memory that is not its own from the
        # ninth channel on.
        self._resampler = _floats(self._stream, self.rate)
        self._end_s: float | None = None  # of the last frame, as the file counts
        self._damage = ""  # since then
        self._damaged_s = 0.0
        self._silence_left = int(_MOST_SILENCE_S * self.rate)
        self._num_samples = 0  # those missing counted

    def close(self) -> None:
        self._container.close()

    def seek(self, first: int) -> int:
        """Containers are read from their start; see ``SndfileItems.seek``."""
        return 0

    def __iter__(self) -> Iterator[np.ndarray | Loss]:
        import av

        with self._container:
            expected = round(_duration_s(self._container, self._stream) * self.rate)
            try:
                for packet in self._container.demux(self._stream):
                    for frame in self._decoded(packet):
                        yield from self._items(frame)
                yield from self._converted(None)
            except (av.FFmpegError, EOFError) as error:
                self._damage = self._damage or reason_of(error)
        if self._damage:
            yield Loss(f"damaged: decoding fails ({self._damage})")
        missing = expected - self._num_samples
        if missing > _DURATION_TOLERANCE_S * self.rate:
            yield Loss(
                f"truncated: the header promises {expected} samples, "
                f"{self._num_samples} can be decoded",
                missing,
            )

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

    def _items(self, frame: Any) -> Iterator[np.ndarray | Loss]:
        missing = self._num_missing(frame)
        if missing or self._damage:
            self._silence_left -= missing
            self._num_samples += missing
            message = f"damaged: decoding fails ({self._damage})" if self._damage else MISSING
            yield Loss(message, missing)
            self._damage, self._damaged_s = "", 0.0
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
        missing = round(missing_s * self.rate)
        return missing if missing <= self._silence_left else 0

    def _converted(self, frame: Any) -> Iterator[np.ndarray]:
        try:
            blocks = self._resampler.resample(frame)
        except ValueError:  # PyAV's, where rate or layout are no more what they were
            self._damage = self._damage or "another rate or other channels"
            self._damaged_s += frame.samples / frame.sample_rate
            return
        for block in blocks:
            samples_nc = block.to_ndarray().reshape(-1, self.num_channels)
            self._num_samples += len(samples_nc)
            yield samples_nc


def _open(source: Path | BinaryIO, name: object) -> Any:
    import av

    try:
        return open_container(source)
    except av.ArgumentError:
        raise AudioError(
            f"{name}: not an audio file that can be read (playlists and unknown formats are refused)"
        ) from None
    except (av.FFmpegError, EOFError) as error:
        message = f"{name}: not an audio file that can be read ({reason_of(error)})"
        raise AudioError(message) from None


def _choose_track(container: Any, name: object, track: int | None) -> Any:
    """The audio track asked for, else the one that the container calls its default, else the first."""
    import av

    tracks = container.streams.audio
    if not tracks:
        raise AudioError(f"{name}: has no audio track", "empty audio")
    if track is not None:
        if not 0 <= track < len(tracks):
            raise AudioError(
                f"{name}: no audio track {track + 1}: choose from 1 to {len(tracks)}",
                "no such track",
            )
        return tracks[track]
    default = av.stream.Disposition.default
    return next((one for one in tracks if one.disposition & default), tracks[0])


def _track_rate(stream: Any, name: object) -> int:
    codec = stream.codec_context
    if codec is None or not codec.sample_rate:
        raise AudioError(f"{name}: its audio track cannot be decoded")
    return int(codec.sample_rate)


def _floats(stream: Any, rate: int) -> Any:
    import av

    return av.AudioResampler(format="flt", layout=stream.layout, rate=rate)


def _duration_s(container: Any, stream: Any) -> float:
    """How long a track is, 0 where the container does not tell or only guesses."""
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
