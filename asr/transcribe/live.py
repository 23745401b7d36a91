"""Text while the audio still comes: partial results at once, final ones at pauses.

What is remembered is bounded: the encoder's past, less than a chunk of samples, and the frames since
the last final result, half a minute of them at most.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from asr.data.audio.blocks import Converter, resampling_delay_s
from asr.data.audio.gaps import Gap
from asr.data.audio.levels import to_floats
from asr.errors import InputError
from asr.model.folder import Model
from asr.model.stream import FrameStream
from asr.nn.encoder import Chunk
from asr.search.options_checks import number, shown, whole
from asr.transcribe.assemble import Reader, within
from asr.transcribe.pieces import Piece, PieceCutter
from asr.transcribe.result import Segment
from asr.transcribe.usual_settings import usual_settings

# No stream has more channels, and no block fewer samples where there are several.
_MOST_CHANNELS = 32


class Axes:
    """The order of the axes of a stream's blocks, as they come."""

    def __init__(self, num_channels: int | None) -> None:
        """
        Args:
            num_channels: None is what the first block shows.
        """
        self._num_channels = num_channels
        self._is_samples_first: bool | None = None

    def sorted(self, samples: np.ndarray) -> np.ndarray:
        """A block as (channels, n).

        Raises:
            InputError: the block does not tell, or not of as many channels as the stream.
        """
        if samples.ndim == 1 and self._num_channels in (None, 1):
            self._num_channels = 1
            return samples[None]
        if samples.ndim != 2:
            raise self._refusal(samples)
        rows, columns = samples.shape
        if self._num_channels is None and samples.size:
            if 1 < max(rows, columns) <= _MOST_CHANNELS:
                raise InputError(
                    f"samples of shape ({rows}, {columns}): which axis is of channels? Give "
                    "num_channels, or more samples"
                )
            self._num_channels = min(rows, columns)
        if not samples.size:
            return np.zeros((self._num_channels or 1, 0), np.float32)
        if rows != columns:
            self._is_samples_first = columns == self._num_channels
        found = samples.T if self._is_samples_first else samples
        if len(found) != self._num_channels:
            raise self._refusal(samples)
        return found

    def _refusal(self, samples: np.ndarray) -> InputError:
        expected = "(n,) or (channels, n)"
        if self._num_channels is not None and self._num_channels > 1:
            expected = f"({self._num_channels}, n) or (n, {self._num_channels})"
        shape = f"{samples.ndim} axes" if samples.ndim != 2 else f"shape {samples.shape}"
        return InputError(f"samples of {shape}: expected {expected}")


def _whole_rate(sample_rate: object) -> int:
    """Return samples per second; ``16000.0`` is a whole number of them too."""
    try:
        found = number("sample_rate", sample_rate)
    except InputError:
        found = 0.5
    if not found.is_integer():
        raise InputError(f"sample_rate = {shown(sample_rate)}: must be a whole number per second")
    return int(found)


@dataclass(frozen=True)
class StreamResult:
    """Words that were heard since the last final result.

    Attributes:
        is_final: no later result changes it. Else it stands until the next result, which replaces it,
            or the end of the stream.
        segment: with times in seconds from the first sample of the stream. Without words it takes
            back a partial result, of which the final search found nothing.
    """

    is_final: bool
    segment: Segment

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; times and confidences are rounded to three digits."""
        kind = {"type": "final" if self.is_final else "partial"}
        return kind | self.segment.to_dict()


class TextStream:
    """Samples in, as they come; results out.

    However the samples are cut, the final results are the same: what the model with the same chunks
    finds in the whole. Partial results are found by greedy search, final ones by the search that was
    asked for.

    Attributes:
        gaps: what could not be used (NaN, infinite samples) and counts as silence. The caller may
            empty the list at any time; it grows with damage only.
        chunk_s: seconds of sound that are computed at once.
        latency_s: the longest time from a sample to a result that knows of it, but for computing.
    """

    def __init__(
        self,
        model: Model,
        reader: Reader,
        chunk: Chunk,
        sample_rate: int,
        channel: int | None = None,
        in_bf16: bool = False,
        num_channels: int | None = None,
    ):
        """
        Args:
            reader: finds the words of final results.
            chunk: see ``choose_chunk``.
            sample_rate: of what is fed.
            channel: the one to take, from 0; None is the mean of all.
            in_bf16: matrix products in bfloat16.
            num_channels: of what is fed; None is what the first block shows.

        Raises:
            InputError: an absurd rate or one that is no whole number, a channel or a number of them
                that is none, a model that cannot be cut into chunks.
        """
        sample_rate = _whole_rate(sample_rate)
        if num_channels is not None:
            num_channels = whole("num_channels", num_channels, 1)
        if channel is not None:
            channel = whole("channel", channel, 0)
        self.gaps: list[Gap] = []
        model_rate = model.config.features.sample_rate
        self._converter = Converter(sample_rate, model_rate, self.gaps, channel, "stream")
        self._frames = FrameStream(model.net, model.config, chunk, reader.search.head)
        self.chunk_s = self._frames.chunk_s
        delay_s = resampling_delay_s(sample_rate, model_rate)
        self.latency_s = self.chunk_s + self._frames.lookahead_s + delay_s
        self._reader = reader
        self._partial_reader = replace(reader, search=reader.search.quick())
        self._cutter = PieceCutter(reader.search, reader.units, reader.frame_s)
        self._autocast = torch.autocast(model.net.device.type, torch.bfloat16, enabled=in_bf16)
        self._rate = sample_rate
        self._axes = Axes(num_channels)
        self._num_samples, self._num_frames = 0, 0
        self._has_ended = False
        self._shown = ""  # the text of the partial result that stands

    @property
    def duration_s(self) -> float:
        """Seconds that were fed."""
        return self._num_samples / self._rate

    def feed(self, samples: np.ndarray) -> list[StreamResult]:
        """
        Args:
            samples: (n,), (channels, n) or, as sounddevice gives them, (n, channels); floats in
                [-1, 1] or integers of 8 to 32 bits; any number of them, none too.

        Returns:
            Final results that these samples complete, then a partial one if it is news.

        Raises:
            InputError: no such channel; no array, or one that is not of numbers; too few samples to
                see which axis is which, or another number of channels than before; the stream has
                ended; the model's outputs are NaN.
        """
        self._check_open()
        if not isinstance(samples, np.ndarray):
            raise InputError(f"feed({type(samples).__name__}): expected a NumPy array of samples")
        if samples.dtype == np.int64:
            raise InputError("samples of type int64: expected floats or integers of 8 to 32 bits")
        with usual_settings():
            return self._feed(samples)

    def _feed(self, samples: np.ndarray) -> list[StreamResult]:
        samples_cn = to_floats(self._axes.sorted(samples))
        self._num_samples += samples_cn.shape[1]
        wave_n = self._converter.push(samples_cn.T)
        with self._autocast:
            frames_tx = self._frames.feed(torch.tensor(wave_n, device="cpu"))
        return self._read(frames_tx)

    def finish(self) -> list[StreamResult]:
        """Final results of what is left; no partial one stands any more. The stream has ended.

        Raises:
            InputError: not a single sample was finite, or it had ended before; the model's outputs
                are NaN.
        """
        self._check_open()
        self._has_ended = True
        with usual_settings():
            return self._finish()

    def _finish(self) -> list[StreamResult]:
        rest_n = torch.from_numpy(self._converter.finish())
        with self._autocast:
            parts = [self._frames.feed(rest_n), self._frames.finish()]
        pieces = self._cut(torch.cat(parts)) + self._cutter.flush()
        self._shown = ""
        segments = self._segments(pieces)
        return [StreamResult(True, within(one, self.duration_s)) for one in segments]

    def _check_open(self) -> None:
        if self._has_ended:
            raise InputError("the stream has ended (finish() was called); begin another one")

    def _read(self, frames_tx: torch.Tensor) -> list[StreamResult]:
        if not len(frames_tx):
            return []
        segments = self._segments(self._cut(frames_tx))
        results = [StreamResult(True, segment) for segment in segments]
        if results:
            self._shown = ""
        held = self._cutter.held
        heard = self._partial_reader.read(held) or self._nothing(held)
        if heard.text != self._shown:
            self._shown = heard.text
            results.append(StreamResult(False, heard))
        return results

    def _cut(self, frames_tx: torch.Tensor) -> list[Piece]:
        first_frame = self._num_frames
        self._num_frames += len(frames_tx)
        return self._cutter.push(first_frame, frames_tx.float().cpu().numpy())

    def _nothing(self, held: Piece) -> Segment:
        start_s = held.first_frame * self._reader.frame_s
        return Segment("", start_s, start_s, ())

    def _segments(self, pieces: list[Piece]) -> list[Segment]:
        found = [self._reader.read(piece) for piece in pieces]
        return [segment for segment in found if segment is not None]
