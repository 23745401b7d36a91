"""FLAC streams one after the other in a file."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from asr.data.stretches import WHOLE, Plan, Stretch

# The marker and the header of the first metadata block, which every stream has.
_BEGINNING = b"fLaC\0\0\0\x22"
_SEARCH_BYTES = 1 << 18
_MANY = 64
_memory = threading.local()


def plan_flac(file: BinaryIO, until_s: float, start: int = 0) -> Plan:
    """Return how to decode a FLAC file up to ``until_s``: a stream ends where the next begins.

    Args:
        start: where the first begins, after a tag.
    """
    file.seek(start)
    if until_s <= _duration_s(file.read(26)):
        return WHOLE
    size = file.seek(0, os.SEEK_END)
    starts = [start]
    position = start + 1
    while position < size:
        file.seek(position)
        content = _read(file)
        found = _find(content)
        if found >= 0:
            starts.append(position + found)
            position = starts[-1] + 1
        else:
            position += max(1, len(content) - len(_BEGINNING) + 1)
    if len(starts) == 1:
        return WHOLE
    return Plan([Stretch([span]) for span in pairwise([*starts, size])])


def _read(file: BinaryIO) -> memoryview:
    """The next bytes, in memory that is used again: fresh pages cost more than the search."""
    read_into = getattr(file, "readinto", None)
    if read_into is None:
        return memoryview(file.read(_SEARCH_BYTES))
    if not hasattr(_memory, "content"):
        _memory.content = bytearray(_SEARCH_BYTES)
    content = memoryview(_memory.content)
    return content[: read_into(content)]


def _find(content: bytes | memoryview) -> int:
    """Where a stream begins in ``content``, else -1; bytes.find alone takes many times as long.

    Wherever it begins, one of the 16-bit words of its three zeros is 0, as few others are but those
    of padding.
    """
    words = np.frombuffer(content, np.uint16, len(content) // 2)
    if not len(words) or words.min():
        return -1
    zeros = np.flatnonzero(words == 0)
    first, last = max(0, 2 * int(zeros[0]) - 5), 2 * int(zeros[-1]) + 4
    if len(zeros) > _MANY:
        found = bytes(content[first:last]).find(_BEGINNING)
        return found if found < 0 else found + first
    starts = (2 * word - offset for word in zeros.tolist() for offset in (5, 4))
    return next((at for at in starts if at >= 0 and content[at : at + 8] == _BEGINNING), -1)


def _duration_s(head: bytes) -> float:
    """Of the first stream by its header, 0 where that does not tell."""
    if not head.startswith(_BEGINNING) or len(head) < 26:
        return 0.0
    told = int.from_bytes(head[18:26], "big")  # 20 bits of rate, 8 of layout, 36 of length
    rate, num_samples = told >> 44, told & (1 << 36) - 1
    return num_samples / rate if rate else 0.0
