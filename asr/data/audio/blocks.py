"""Audio of any length in blocks: mono float32 at the model's rate, in memory that does not grow.

What cannot be read is noted as a gap, and is silence where something follows it, so that all that
follows keeps its time. Only where nothing at all can be read is there an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr

from asr.data.audio.error import AudioError
from asr.data.audio.gaps import Gap, Remark, note_gap
from asr.data.audio.levels import (
    CANCELLED,
    INTEGER_SCALE,
    UNCANCELLED,
    Loudness,
    cancelling,
    float_bits,
    from_bits,
    misses_others,
)
from asr.data.audio.reader import SHORT_PIECE_S, Reader, check_rate
from asr.data.audio.stretches import Loss

BLOCK_S = 10.0
BAD_SAMPLES = "NaN, infinite or absurd samples"
# Sound is between -1 and 1; energies of far more overflow.
_LOUDEST = 1e6


def read_blocks(
    source: Path | BinaryIO,
    sample_rate: int,
    gaps: list[Gap],
    channel: int | None = None,
    track: int | None = None,
    name: object = None,
) -> Iterator[np.ndarray]:
    """float32 (n,) blocks of a file, one after the other, at ``sample_rate``.

    Args:
        source: a path, or a binary file that can seek.
        gaps: what cannot be read is appended here while the blocks come.
        channel: the one to take, from 0; None is the mean of all.
        track: of a container, from 0; None is its default one.
        name: what error messages call the source; None is the path.

    Raises:
        AudioError: missing, unreadable, without samples or without such a channel or track.
    """
    with Reader(source, name, track, SHORT_PIECE_S) as reader:
        blocks_nc = _in_blocks(_with_silence(reader, gaps), reader.rate)
        yield from convert(blocks_nc, reader.rate, sample_rate, gaps, channel, str(reader.name))


def _with_silence(reader: Reader, gaps: list[Gap]) -> Iterator[np.ndarray]:
    """The samples of a file, and silence where some are missing before others."""
    position = 0
    losses: list[Loss] = []
    for item in reader.items():
        if isinstance(item, Loss):
            losses.append(item)
            continue
        if losses:
            missing = sum(loss.num_samples or 0 for loss in losses)
            start_s = position / reader.rate
            gap = Gap(start_s, start_s + missing / reader.rate, losses[0].message)
            note_gap(gap, gaps)
            yield from _silence(missing, reader)
            position, losses = position + missing, []
        yield item
        position += len(item)
    if not position:
        reason = losses[0].message if losses else "no audio: zero samples"
        raise AudioError(f"{reader.name}: {reason}", "empty audio")
    if losses:
        missing = sum(loss.num_samples or 0 for loss in losses)
        end_s = (position + missing) / reader.rate if missing else None
        gaps.append(Gap(position / reader.rate, end_s, losses[0].message))


def _silence(num_samples: int, reader: Reader) -> Iterator[np.ndarray]:
    for start in range(0, num_samples, reader.rate):
        yield np.zeros((min(reader.rate, num_samples - start), reader.num_channels), np.float32)


def convert(
    blocks_nc: Iterable[np.ndarray],
    source_rate: int,
    sample_rate: int,
    gaps: list[Gap],
    channel: int | None = None,
    where: str = "array",
) -> Iterator[np.ndarray]:
    """Blocks (n, channels) at ``source_rate`` to mono float32 (m,) at ``sample_rate``; see
    ``Converter``."""
    converter = Converter(source_rate, sample_rate, gaps, channel, where)
    for block_nc in blocks_nc:
        yield converter.push(block_nc)
    rest_m = converter.finish()
    if len(rest_m):
        yield rest_m


class Converter:
    """Blocks (n, channels) at one rate to mono float32 (m,) at another, as they come.

    NaN and infinite samples become silence and a gap. Samples somewhat beyond 1 are left as they are,
    those at integers' scale are rescaled; of channels that cancel one another the loudest is taken.
    """

    def __init__(
        self,
        source_rate: int,
        sample_rate: int,
        gaps: list[Gap],
        channel: int | None = None,
        where: str = "array",
    ):
        """
        Args:
            gaps: bad samples are appended here while the blocks come.
            channel: the one to take, from 0; None is the mean of all.
            where: what error messages call the input.

        Raises:
            AudioError: an absurd rate.
        """
        check_rate(source_rate, where)
        self._rate, self._gaps, self._channel, self._where = source_rate, gaps, channel, where
        # soxr's state is float32 as its input; equal rates need none
        self._resampler = (
            None if source_rate == sample_rate else soxr.ResampleStream(source_rate, sample_rate, 1)
        )
        self._is_guess = False  # the channel, because of the others
        self._num_samples, self._num_bad = 0, 0
        self._loudness = Loudness(source_rate)
        self._bits = 0  # of the integers whose scale the samples have; 0: within [-1, 1]

    def push(self, block_nc: np.ndarray) -> np.ndarray:
        """(m,) what these samples complete; a resampler holds some back.

        Raises:
            AudioError: no such channel.
        """
        self._watch_cancelling(block_nc)
        chosen_n = _choose(block_nc, self._channel, self._where)
        mono_n = np.ascontiguousarray(chosen_n, dtype=np.float32)
        mono_n = self._scaled(mono_n)
        bad_n = ~(np.abs(mono_n) <= _LOUDEST)  # true of NaN too
        if bad_n.any():
            mono_n = np.where(bad_n, np.float32(0), mono_n)
            self._num_bad += int(bad_n.sum())
            _note_bad(bad_n, self._num_samples, self._rate, self._gaps)
        self._loudness.push(mono_n)
        self._num_samples += len(mono_n)
        return mono_n if self._resampler is None else self._resampler.resample_chunk(mono_n)

    def _watch_cancelling(self, block_nc: np.ndarray) -> None:
        """Take the loudest of channels that cancel one another, until another one speaks alone."""
        if self._channel is None:
            self._channel = cancelling(block_nc)
            if self._channel is not None:
                self._is_guess = True
                self._remark(CANCELLED.format(self._channel + 1))
        elif self._is_guess and misses_others(block_nc, self._channel):
            self._channel, self._is_guess = None, False
            self._remark(UNCANCELLED)

    def finish(self) -> np.ndarray:
        """(m,) what was held back.

        Raises:
            AudioError: no sample was finite.
        """
        if self._num_samples and self._num_bad == self._num_samples:
            raise AudioError(f"{self._where}: {BAD_SAMPLES} only", BAD_SAMPLES)
        note = self._loudness.note()
        if note is not None:
            self._remark(note)
        nothing_n = np.zeros(0, np.float32)
        if self._resampler is None:
            return nothing_n
        return self._resampler.resample_chunk(nothing_n, last=True)

    def _scaled(self, mono_n: np.ndarray) -> np.ndarray:
        """Return floats of integers' scale, from the first on that must be, as those in [-1, 1]."""
        bits = float_bits(mono_n)
        if bits is not None and bits > self._bits:
            self._bits = bits
            peak = np.abs(mono_n)[np.abs(mono_n) < 2.0**bits].max()
            self._remark(INTEGER_SCALE.format(peak, bits))
        return from_bits(mono_n, self._bits) if self._bits else mono_n

    def _remark(self, text: str) -> None:
        self._gaps.append(Remark(self._num_samples / self._rate, None, text))


def resampling_delay_s(source_rate: int, sample_rate: int) -> float:
    """Measure how long ``Converter`` holds a sample back at most, measured."""
    if source_rate == sample_rate:
        return 0.0
    resampler = soxr.ResampleStream(source_rate, sample_rate, 1)
    block_n = np.zeros(-(-source_rate // 100), np.float32)
    delays_s, num_out = [], 0
    for number in range(1, 201):
        num_out += len(resampler.resample_chunk(block_n))
        delays_s.append(number * len(block_n) / source_rate - num_out / sample_rate)
    return max(delays_s)


def _choose(block_nc: np.ndarray, channel: int | None, where: str) -> np.ndarray:
    num_channels = block_nc.shape[1]
    if channel is not None and not 0 <= channel < num_channels:
        raise AudioError(
            f"{where}: no channel {channel + 1}: choose from 1 to {num_channels}", "no such channel"
        )
    if channel is not None or num_channels == 1:
        return block_nc[:, channel or 0]
    with np.errstate(invalid="ignore", over="ignore"):
        return block_nc.mean(axis=1)


def _note_bad(bad_n: np.ndarray, at: int, rate: int, gaps: list[Gap]) -> None:
    """Append the spans of bad samples of one block, joined to what came shortly before."""
    edges = np.flatnonzero(np.diff(bad_n, prepend=False, append=False)).reshape(-1, 2)
    for first, end in (edges + at) / rate:
        note_gap(Gap(float(first), float(end), BAD_SAMPLES), gaps)


def _in_blocks(pieces_nc: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The same samples, at least ``BLOCK_S`` of them at a time, but for the last."""
    pending: list[np.ndarray] = []
    num_pending = 0
    for piece_nc in pieces_nc:
        pending.append(piece_nc)
        num_pending += len(piece_nc)
        if num_pending >= BLOCK_S * rate:
            yield np.concatenate(pending)
            pending, num_pending = [], 0
    if pending:
        yield np.concatenate(pending)
