"""FLAC streams one after the other in a file."""

from __future__ import annotations

import os
import re
import threading
from itertools import pairwise
from typing import BinaryIO

from asr.data.audio.stretches import WHOLE, Plan, Stretch

# The marker and the header of the first metadata block, which every stream has.
_BEGINNING = b"fLaC\0\0\0\x22"
_BEGINNING_AT = re.compile(re.escape(_BEGINNING))  # faster than bytes.find here
_SEARCH_BYTES = 1 << 18
_MOST_BLOCKS = 128  # of metadata
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
    position = _end_of_metadata(file, start)
    while position <= size - len(_BEGINNING):
        file.seek(position)
        content = _read(file)
        if found := _BEGINNING_AT.search(content):
            starts.append(position + found.start())
            position = starts[-1] + 1
        else:
            position += max(1, len(content) - len(_BEGINNING) + 1)
    if len(starts) == 1:
        return WHOLE
    return Plan([Stretch([span]) for span in pairwise([*starts, size])])


def _end_of_metadata(file: BinaryIO, start: int) -> int:
    """Find where a stream's blocks of metadata end, whose padding would look like much to search."""
    at = start + len(_BEGINNING) - 4
    for _ in range(_MOST_BLOCKS):
        file.seek(at)
        head = file.read(4)
        at += 4 + int.from_bytes(head[1:], "big")
        if len(head) < 4 or head[0] & 0x80:
            return at
    return start + 1


def _read(file: BinaryIO) -> memoryview:
    """The next bytes, in memory that is used again: fresh pages cost more than the search."""
    read_into = getattr(file, "readinto", None)
    if read_into is None:
        return memoryview(file.read(_SEARCH_BYTES))
    if not hasattr(_memory, "content"):
        _memory.content = bytearray(_SEARCH_BYTES)
    content = memoryview(_memory.content)
    return content[: read_into(content)]


def _duration_s(head: bytes) -> float:
    """Return the seconds of the first stream by its header, 0 where that does not tell."""
    if not head.startswith(_BEGINNING) or len(head) < 26:
        return 0.0
    told = int.from_bytes(head[18:26], "big")  # 20 bits of rate, 8 of layout, 36 of length
    rate, num_samples = told >> 44, told & (1 << 36) - 1
    return num_samples / rate if rate else 0.0
