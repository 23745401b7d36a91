"""Raw samples from a pipe: bytes in any portions, Ctrl-C and SIGTERM as the end of the input."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import BinaryIO

import numpy as np

from asr.errors import InputError
from asr.transcribe.magic import HEAD_BYTES, kind_of_file

# FFmpeg's names; numpy's, which become floats in [-1, 1] where they are used.
SAMPLE_FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}

_BLOCK_BYTES = 1 << 16


class PcmDecoder:
    """Bytes as they come -> samples; those of an unfinished sample wait for the rest of it."""

    def __init__(self, sample_format: str, num_channels: int):
        """
        Raises:
            InputError: no such format, no channel.
        """
        if sample_format not in SAMPLE_FORMATS:
            raise InputError(
                f"sample format {sample_format!r}: choose one of {', '.join(SAMPLE_FORMATS)}"
            )
        if num_channels < 1:
            raise InputError(f"{num_channels} channels: must be at least 1")
        self._dtype = np.dtype(SAMPLE_FORMATS[sample_format])
        self._num_channels = num_channels
        self._head = b""
        self._held = b""

    @property
    def num_held_bytes(self) -> int:
        """Bytes of a sample (of all channels) whose rest has not come."""
        return len(self._held)

    def push(self, data: bytes) -> np.ndarray:
        """(channels, n) of the format's type: the samples that these bytes complete.

        Raises:
            InputError: the input is a file of another kind, not raw samples.
        """
        if len(self._head) < HEAD_BYTES:
            self._head = (self._head + data)[:HEAD_BYTES]
            kind = kind_of_file(self._head)
            if kind is not None:
                raise InputError(
                    f"standard input is {kind}, not raw samples: decode it before, "
                    "as ffmpeg -f s16le does, or transcribe it as a file (asr transcribe -)"
                )
        data = self._held + data
        size = self._num_channels * self._dtype.itemsize
        end = len(data) - len(data) % size
        self._held = data[end:]
        return np.frombuffer(data[:end], self._dtype).reshape(-1, self._num_channels).T


class InterruptibleInput:
    """The bytes of a pipe as they come. Ctrl-C or SIGTERM ends them, and interrupts nothing but the
    waiting for them; once more, it is a KeyboardInterrupt."""

    def __init__(self, file: BinaryIO):
        """
        Args:
            file: buffered, with ``read1``.
        """
        self._file = file
        self._is_waiting = False
        self._is_interrupted = False

    def __enter__(self) -> InterruptibleInput:
        self._handlers_before = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)

    def __iter__(self) -> Iterator[bytes]:
        while data := self._read():
            yield data

    def _read(self) -> bytes:
        data = b""
        try:
            self._is_waiting = True
            if not self._is_interrupted:
                data = self._file.read1(_BLOCK_BYTES)  # type: ignore[attr-defined]
            self._is_waiting = False
        except KeyboardInterrupt:  # ours, from the line above
            pass
        return data

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_interrupted:
            raise KeyboardInterrupt
        self._is_interrupted = True
        if self._is_waiting:
            self._is_waiting = False
            raise KeyboardInterrupt
