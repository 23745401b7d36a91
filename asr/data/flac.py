"""FLAC streams one after the other in a file."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import BinaryIO

from asr.data.stretches import WHOLE, Plan, Stretch

# The marker and the header of the first metadata block, which every stream has.
_BEGINNING = b"fLaC\0\0\0\x22"
_SEARCH_BYTES = 1 << 20


def plan_flac(file: BinaryIO) -> Plan:
    """Return how to decode a FLAC file: a stream ends where the next begins."""
    size = file.seek(0, os.SEEK_END)
    starts = [0]
    position = 1
    while position < size:
        file.seek(position)
        content = file.read(_SEARCH_BYTES)
        found = content.find(_BEGINNING)
        if found >= 0:
            starts.append(position + found)
            position = starts[-1] + 1
        else:
            position += max(1, len(content) - len(_BEGINNING) + 1)
    if len(starts) == 1:
        return WHOLE
    return Plan([Stretch([span]) for span in pairwise([*starts, size])])
