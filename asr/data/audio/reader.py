"""Any audio file as samples and losses, in order: the one reader that all others stand on.

It reads forward only, to the end of chained and concatenated streams. Training and preparation are
strict: the first loss is an error. Transcription puts silence and a gap where samples are missing.
Samples of MP3 are those between encoder delay and padding where a LAME tag gives them.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from asr.data.audio.error import AudioError, reason_of
from asr.data.audio.extensions import MEDIA_EXTENSIONS
from asr.data.audio.media import PyavItems
from asr.data.audio.sndfile import HEAD_BYTES, SOUNDFILE_ERRORS, SndfileItems, plan
from asr.data.audio.stretches import Loss
from asr.files import open_regular

LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
# Transcription decodes so much at once: the calls take 0.01 % of the sound's time, and so much may be
# lost at damage.
SHORT_PIECE_S = 0.25
LONG_PIECE_S = 60.0


class Reader:
    """An open file; a context manager.

    Attributes:
        name: what error messages call it.
        rate, num_channels: of the samples.
        promised: samples by the header, 0 where it does not tell.
    """

    def __init__(
        self,
        source: Path | BinaryIO,
        name: object = None,
        track: int | None = None,
        piece_s: float = LONG_PIECE_S,
        until_s: float = math.inf,
        pipes: bool = True,
    ) -> None:
        """
        Args:
            source: a path (of a file, or of a pipe, which is copied first), or a binary file that can
                seek; that one is not closed.
            name: None is the path.
            track: the audio track of a container to take, from 0; None is the default one.
            piece_s: decoded at once.
            until_s: no more is going to be read than up to there.
            pipes: whether a path may be a pipe's, which is waited for.

        Raises:
            AudioError: missing, not audio, or with an absurd rate.
        """
        self.name = source if name is None else name
        self._own: BinaryIO | None = None
        self._items: SndfileItems | PyavItems | None = None
        path: Path | None = None
        if isinstance(source, Path):
            file, is_copy = _open_file(source, pipes)
            self._own, path = file, None if is_copy else source
        else:
            file = source
        try:
            self._items = items = self._open(file, path, track, piece_s, until_s)
            self.rate, self.num_channels = items.rate, items.num_channels
            check_rate(self.rate, self.name)
        except OSError as error:
            self.close()
            raise AudioError(f"{self.name}: cannot be read: {error.strerror}") from None
        except BaseException:
            self.close()
            raise
        self.promised = items.promised

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._items is not None:
            self._items.close()
        if self._own is not None:
            self._own.close()

    def items(self, first: int = 0, count: int | None = None) -> Iterator[np.ndarray | Loss]:
        """float32 (n, channels) pieces, none empty, and the losses between them, once.

        Args:
            first, count: the samples to read; a loss counts as what is missing.
        """
        assert self._items is not None, "closed"
        position = self._items.seek(first) if first else 0
        end = None if count is None else first + count
        for item in self._until_error():
            if isinstance(item, Loss):
                yield item
                position += item.num_samples or 0
                if end is not None and position >= end:
                    return
                continue
            piece_nc = item[max(0, first - position) : None if end is None else end - position]
            position += len(item)
            if len(piece_nc):
                yield piece_nc
            if end is not None and position >= end:
                return

    def _until_error(self) -> Iterator[np.ndarray | Loss]:
        """Yield what is decoded, and a loss in place of what the disk does not give."""
        assert self._items is not None, "closed"
        try:
            yield from self._items
        except OSError as error:
            yield Loss(f"cannot be read further: {error.strerror}")

    def strict(self, first: int = 0, count: int | None = None) -> Iterator[np.ndarray]:
        """The same pieces; the first loss is an error.

        Raises:
            AudioError: truncated or damaged.
        """
        for item in self.items(first, count):
            if isinstance(item, Loss):
                raise AudioError(f"{self.name}: {item.message}", "truncated audio")
            yield item

    def _open(
        self,
        file: BinaryIO,
        path: Path | None,
        track: int | None,
        piece_s: float,
        until_s: float,
    ) -> SndfileItems | PyavItems:
        file.seek(0)
        head = file.read(HEAD_BYTES)
        if not head:
            raise AudioError(f"{self.name}: the file is empty (0 bytes)", "empty audio")
        error: Exception | None = None
        planned = plan(file, head, until_s) if track is None else None
        if planned is not None:
            try:
                return SndfileItems(file, path, planned, piece_s)
            except SOUNDFILE_ERRORS as caught:
                error = caught
        if importlib.util.find_spec("av") is None:
            raise AudioError(_without_pyav(str(self.name), error))
        file.seek(0)
        return PyavItems(file if path is None else path, self.name, track)


def check_rate(rate: object, where: object) -> None:
    """AudioError for a rate that only a damaged header has: resampling would ask for any memory."""
    if not isinstance(rate, int):
        raise AudioError(f"{where}: its sampling rate is {rate!r:.80}, expected a whole number")
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"{where}: {rate} samples per second, which cannot be right")


def _open_file(path: Path, pipes: bool) -> tuple[BinaryIO, bool]:
    """A file to seek in, and whether it is a copy without a name, as that of a pipe is."""
    if not _is_file_name(path):
        raise AudioError(f"{str(path)!r}: no file can have such a name", "missing audio")
    try:
        if not pipes:
            return open_regular(path), False
        file = open(path, "rb")  # noqa: SIM115
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISREG(mode):
            return file, False
        with file:
            if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
                raise AudioError(f"{path}: a device, not an audio file")
            return spooled(file), True
    except IsADirectoryError:
        raise AudioError(f"{path}: a folder, not an audio file") from None
    except FileNotFoundError:
        raise AudioError(f"{path}: no such file", "missing audio") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read: {error.strerror}") from None


def _is_file_name(path: Path) -> bool:
    """Return whether a file can be called that: no NUL byte, no half a character."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


def spooled(pipe: BinaryIO) -> BinaryIO:
    """A copy, on disk, of what still comes from a pipe: every decoder wants to seek at its start."""
    copy = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115
    try:
        shutil.copyfileobj(pipe, copy)
    except BaseException:
        copy.close()
        raise
    return copy


def _without_pyav(name: str, error: Exception | None) -> str:
    suffix = os.path.splitext(name)[1]
    if suffix.lower() in MEDIA_EXTENSIONS or error is None:
        return f"{name}: reading {suffix or 'it'} needs PyAV, which is missing: pip install av"
    return f"{name}: not an audio file that can be read ({reason_of(error)})"
