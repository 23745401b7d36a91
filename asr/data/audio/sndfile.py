"""Samples through libsndfile, forward only: WAV, FLAC, Ogg, Opus, MP3 and what else it reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from asr.data.audio.error import reason_of
from asr.data.audio.flac import plan_flac
from asr.data.audio.headers import plan_aiff, plan_au, plan_caf
from asr.data.audio.lengths import plan_by_length
from asr.data.audio.mp3 import parse_frame, plan_mp3, tag_bytes
from asr.data.audio.ogg import plan_ogg
from asr.data.audio.quiet import quiet_c_library
from asr.data.audio.spliced import Spliced
from asr.data.audio.stretches import Loss, Plan, Stretch
from asr.data.audio.wav import plan_wav

# The second where soundfile cannot even read libsndfile's complaint, which cites the file's bytes.
SOUNDFILE_ERRORS = (soundfile.LibsndfileError, UnicodeDecodeError)
# By which formats are told apart.
HEAD_BYTES = 12
# What libsndfile says of a FLAC whose header does not tell its length, as of one written to a pipe.
_UNKNOWN_FRAMES = (1 << 63) - 1
# Numbers that are decoded at once, all channels together: 16 MB.
_BLOCK_VALUES = 1 << 22
# Decoders of MP3 need some frames before they give what they would give from the start.
_MPEG_PREROLL_S = 1.0
# The length of MPEG audio in a WAV is rounded up, by some four frames of 1152 at most.
MPEG_TOLERANCE = 4 * 1152

_PLANS: dict[tuple[int, ...], tuple[Plan | None]] = {}
_MOST_PLANS = 1024


class ForwardFile(soundfile.SoundFile):
    """A SoundFile that reads on and on: soundfile seeks after each read of one that can seek, which
    in MP3 and in FLAC without a length loses samples."""

    @property
    def can_seek(self) -> bool:
        """Tell whether ``seek`` works; ``seekable`` is what soundfile goes by."""
        return bool(super().seekable())

    def seekable(self) -> bool:
        return False

    @cached_property
    def is_mpeg(self) -> bool:
        """Tell whether libmpg123 decodes it."""
        return bool(self.format == "MP3" or self.subtype.startswith("MPEG"))


def plan(file: BinaryIO, head: bytes, until_s: float) -> Plan | None:
    """Return how to decode ``file``, by what it begins with; None where libsndfile cannot.

    Args:
        until_s: no more is going to be read than up to there.
    """
    if head[:4] == b"OggS":
        return _remembered(file, plan_ogg)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return plan_wav(file)
    if head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC"):
        return plan_aiff(file)
    if head[:4] in (b".snd", b"dns."):
        return plan_au(file)
    if head[:4] == b"caff":
        return plan_caf(file)
    if head[:3] == b"ID3":  # before FLAC too
        start = tag_bytes(head)
        file.seek(start)
        is_flac = file.read(4) == b"fLaC"
        return plan_flac(file, until_s, start) if is_flac else _remembered(file, plan_mp3)
    if parse_frame(head[:4]) is not None:
        return _remembered(file, plan_mp3)
    if head[:4] == b"fLaC":
        return plan_flac(file, until_s)
    return plan_by_length(file, head)


def _remembered(file: BinaryIO, make: Callable[[BinaryIO], Plan | None]) -> Plan | None:
    """The plan of a file, which is looked through once, not again for each segment of it."""
    try:
        status = os.fstat(file.fileno())
    except (OSError, AttributeError):  # in memory, or part of a file
        return make(file)
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    found = _PLANS.get(key)
    if found is None:
        # in a tuple, as a plan may be None; without a lock, which a forked process could inherit held
        found = (make(file),)
        for oldest in list(_PLANS)[: max(0, len(_PLANS) + 1 - _MOST_PLANS)]:
            _PLANS.pop(oldest, None)
        _PLANS[key] = found
    return found[0]


class SndfileItems:
    """The samples (n, channels) of a file and what is missing between them, in order.

    Attributes:
        rate, num_channels: of the first stretch; others are made like it.
        promised: samples by the headers, 0 where they do not tell.
    """

    def __init__(self, file: BinaryIO, path: Path | None, planned: Plan, piece_s: float) -> None:
        """
        Args:
            path: of ``file``, where it has one.
            piece_s: decoded at once: of that in which decoding fails nothing is delivered.

        Raises:
            soundfile.LibsndfileError, UnicodeDecodeError: not a file that libsndfile reads.
        """
        self._file, self._path, self._plan, self._piece_s = file, path, planned, piece_s
        self._first = self._open(planned.stretches[0])
        self.rate, self.num_channels = self._first.samplerate, self._first.channels
        is_one = len(planned.stretches) == 1
        known = 0 if self._first.frames == _UNKNOWN_FRAMES else self._first.frames
        counted = planned.stretches[0].num_samples
        if counted is not None and not counted - MPEG_TOLERANCE <= known <= counted:
            known = counted  # libmpg123 guesses where there is no Xing header
        self.promised = known if is_one else 0
        self._skipped = 0

    def close(self) -> None:
        self._first.close()

    def seek(self, first: int) -> int:
        """Go to sample ``first`` or before, before reading; return where that is."""
        is_mpeg = self._first.is_mpeg
        target = max(0, first - int(_MPEG_PREROLL_S * self.rate)) if is_mpeg else first
        if self.promised <= target or not self._first.can_seek:
            return 0
        with _quiet(self._first):
            self._skipped = self._first.seek(target)
        return self._skipped

    def __iter__(self) -> Iterator[np.ndarray | Loss]:
        for number, stretch in enumerate(self._plan.stretches):
            try:
                sound = self._first if number == 0 else self._open(stretch)
            except SOUNDFILE_ERRORS as error:
                yield Loss(
                    f"truncated or damaged: decoding fails ({reason_of(error)})",
                    stretch.num_samples,
                )
                continue
            with sound:
                yield from self._read(sound, stretch)
        if self._plan.end is not None:
            yield self._plan.end

    def _open(self, stretch: Stretch) -> ForwardFile:
        if stretch.spans is not None:
            source: object = Spliced(self._file, stretch.spans)
        elif self._path is None:
            self._file.seek(0)
            source = self._file
        else:
            source = soundfile_name(self._path)
        with quiet_c_library():  # whatever it may be taken for
            return ForwardFile(source)

    def _read(self, sound: ForwardFile, stretch: Stretch) -> Iterator[np.ndarray | Loss]:
        promised = 0 if sound.frames == _UNKNOWN_FRAMES else sound.frames
        loss = stretch.loss(promised, sound.samplerate)
        if loss is not None:
            yield loss
        fit = _Fit(sound, self.rate, self.num_channels)
        num_read, tolerance = self._skipped, stretch.tolerance
        self._skipped = 0
        if stretch.num_samples is not None:
            promised = stretch.num_samples
        elif sound.is_mpeg:
            tolerance = MPEG_TOLERANCE
        size = max(1, int(min(self._piece_s * sound.samplerate, _BLOCK_VALUES // sound.channels)))
        while num_read < sound.frames:  # libsndfile reads no further
            count = min(size, sound.frames - num_read)
            try:
                with _quiet(sound):
                    piece_nc = sound.read(count, dtype="float32", always_2d=True)
            except SOUNDFILE_ERRORS as error:
                yield Loss(f"truncated or damaged: decoding fails ({reason_of(error)})")
                break
            if not len(piece_nc):
                break
            num_read += len(piece_nc)
            yield fit(piece_nc)
        rest_nc = fit.finish()
        if len(rest_nc):
            yield rest_nc
        if num_read < promised - tolerance:
            yield Loss(
                f"truncated: the header promises {promised} samples, {num_read} can be decoded",
                promised - num_read,
            )


class _Fit:
    """Samples of a later link at the rate and with the channels of the first."""

    def __init__(self, sound: ForwardFile, rate: int, num_channels: int) -> None:
        self._num_channels = num_channels
        self._resampler = (
            None
            if sound.samplerate == rate
            else soxr.ResampleStream(sound.samplerate, rate, num_channels)
        )

    def __call__(self, piece_nc: np.ndarray) -> np.ndarray:
        if piece_nc.shape[1] != self._num_channels:
            mono_n1 = piece_nc.mean(axis=1, keepdims=True)
            piece_nc = np.repeat(mono_n1, self._num_channels, axis=1)
        return piece_nc if self._resampler is None else self._resampler.resample_chunk(piece_nc)

    def finish(self) -> np.ndarray:
        nothing_nc = np.zeros((0, self._num_channels), np.float32)
        if self._resampler is None:
            return nothing_nc
        return self._resampler.resample_chunk(nothing_nc, last=True)


def soundfile_name(path: Path) -> str | bytes:
    """Spell a path for soundfile, which cannot spell a name that is not UTF-8 but takes its bytes."""
    return str(path) if sys.platform == "win32" else os.fsencode(path)


def _quiet(sound: ForwardFile) -> AbstractContextManager[None]:
    return quiet_c_library() if sound.is_mpeg else nullcontext()
