"""A read-only file made of parts of another file and of bytes in memory."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, BinaryIO

Span = bytes | tuple[int, int]
"""Bytes, or (first, end) of the underlying file."""


class Spliced(io.RawIOBase):
    """Spans one after the other, seekable; the underlying file is not closed with it."""

    def __init__(self, file: BinaryIO, spans: Sequence[Span]) -> None:
        super().__init__()
        self._file, self._spans = file, spans
        sizes = (len(span) if isinstance(span, bytes) else span[1] - span[0] for span in spans)
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` up to the end of the spans; return the number of bytes."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._position < self._starts[-1]:
            number = bisect_right(self._starts, self._position) - 1
            within = self._position - self._starts[number]
            count = min(len(view) - done, self._starts[number + 1] - self._position)
            span = self._spans[number]
            if isinstance(span, bytes):
                part = span[within : within + count]
            else:
                self._file.seek(span[0] + within)
                part = self._file.read(count)
            if not part:
                break
            view[done : done + len(part)] = part
            done += len(part)
            self._position += len(part)
        return done
