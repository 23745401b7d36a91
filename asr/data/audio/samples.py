"""Audio files to mono float samples, with every way a file can be bad told in one line.

soundfile reads WAV, FLAC, Ogg, Opus and MP3. What it cannot read (M4A, WebM, video) goes through
PyAV.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soxr
from lhotse.utils import compute_num_samples

from asr.data.audio.error import AudioError as AudioError
from asr.data.audio.levels import cancelling, float_bits, from_bits
from asr.data.audio.reader import LONG_PIECE_S, Reader

# One step of 16 bits to either side.
_SILENT_SPAN = 2.0**-14


@dataclass(frozen=True)
class AudioInfo:
    """``silent``: see ``is_silent``; never where samples were not looked at."""

    num_samples: int
    sample_rate: int
    num_channels: int
    silent: bool = False


def read_audio(path: str | os.PathLike[str], sample_rate: int = 16000) -> np.ndarray:
    """The whole file as float32 (n,): channels averaged, resampled to ``sample_rate``.

    Raises:
        AudioError: missing, unreadable, truncated, without samples, with NaN or infinite ones.
    """
    samples_nc, source_rate = decode(Path(path))
    check_finite(samples_nc, path)
    return to_mono(samples_nc.T, source_rate, sample_rate)


def probe(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """(num_samples, sample_rate, num_channels) by the header; what it does not tell is decoded.

    Raises:
        AudioError: as ``read_audio``, as far as the header tells.
    """
    with Reader(Path(path)) as reader:
        if not reader.promised:
            num_samples = sum(map(len, _pieces(reader)))
            return num_samples, reader.rate, reader.num_channels
        return reader.promised, reader.rate, reader.num_channels


def check_audio(path: str | os.PathLike[str]) -> AudioInfo:
    """Decode everything and throw the samples away: what a header cannot tell.

    Raises:
        AudioError: as ``read_audio``.
    """
    with Reader(Path(path)) as reader:
        num_samples = 0
        lowest, highest = math.inf, -math.inf
        for piece_nc in _pieces(reader):
            check_finite(piece_nc, path)
            lowest, highest = min(lowest, piece_nc.min()), max(highest, piece_nc.max())
            num_samples += len(piece_nc)
        silent = is_silent(lowest, highest)
        return AudioInfo(num_samples, reader.rate, reader.num_channels, silent)


def is_silent(lowest: float, highest: float) -> bool:
    """Tell whether samples between these are silence: 16-bit zero, maybe with dither and an offset."""
    return bool(highest - lowest <= _SILENT_SPAN)


def decode(
    source: Path | BinaryIO,
    offset_s: float = 0.0,
    duration_s: float | None = None,
    name: object = None,
    told_s: float = math.inf,
    pipes: bool = True,
) -> tuple[np.ndarray, int]:
    """float32 (num_samples, num_channels) in [-1, 1] and the file's own sample rate.

    Args:
        source: a path, or a binary file that can seek.
        offset_s, duration_s: the part to read; None: to the end.
        name: what error messages call the source; None is the path.
        told_s: what somebody wrote down of the length: a first stream that is as long is not looked
            through for others.
        pipes: whether a path may be a pipe's.

    Raises:
        AudioError: as ``read_audio``; NaN and infinite samples are not looked for.
    """
    until_s = told_s if duration_s is None else offset_s + duration_s
    piece_s = LONG_PIECE_S if duration_s is None else min(LONG_PIECE_S, duration_s)
    with Reader(source, name, piece_s=piece_s, until_s=until_s, pipes=pipes) as reader:
        first = compute_num_samples(offset_s, reader.rate) if offset_s else 0
        count = None if duration_s is None else compute_num_samples(duration_s, reader.rate)
        pieces_nc = list(_pieces(reader, first, count))
        samples_nc = pieces_nc[0] if len(pieces_nc) == 1 else np.concatenate(pieces_nc)
        return samples_nc, reader.rate


def _pieces(reader: Reader, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
    """Yield the pieces, at least one."""
    num_pieces = 0
    for piece_nc in reader.strict(first, count):
        num_pieces += 1
        yield piece_nc
    if not num_pieces:
        raise AudioError(f"{reader.name}: no audio: zero samples", "empty audio")


def check_finite(samples: np.ndarray, where: object) -> None:
    """Raise AudioError where ``samples`` holds NaN or infinity."""
    # The sum is NaN or infinite if any sample is, and costs a fraction of isfinite(). In the samples'
    # own type it may overflow, too.
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(np.sum(samples)) or np.isfinite(np.sum(samples, dtype=np.float64))
    if not is_finite:
        raise AudioError(f"{where}: NaN or infinite samples", "NaN or infinite samples")


def to_mono(samples_cn: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """float (channels, n) at ``source_rate`` to contiguous float32 (m,) at ``sample_rate``.

    The mean of the channels, or the loudest where they cancel one another; floats at the scale of
    integers are rescaled. Transcription does the same (``blocks.Converter``).
    """
    channel = 0 if samples_cn.shape[0] == 1 else cancelling(samples_cn.T)
    mono = samples_cn.mean(axis=0) if channel is None else samples_cn[channel]
    mono = np.ascontiguousarray(mono, dtype=np.float32)
    bits = float_bits(mono)
    if bits is not None:
        mono = from_bits(mono, bits)
    if source_rate == sample_rate:
        return mono
    return np.asarray(soxr.resample(mono, source_rate, sample_rate), dtype=np.float32)
