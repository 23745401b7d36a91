"""WAV headers: lengths that their writers did not know, and tails that are missing."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import BinaryIO, cast

from asr.data.mp3 import plan_mp3
from asr.data.spliced import Spliced
from asr.data.stretches import WHOLE, Loss, Plan, Stretch

# Writers to a pipe cannot know the length and leave 0 or a huge number.
_UNKNOWN_BYTES = 0x7FFF0000
_TOLERANCE_BYTES = 64
_MPEG = (0x50, 0x55)
_IN_DS64 = 0xFFFFFFFF


def plan_wav(file: BinaryIO) -> Plan:
    """Return how to decode a RIFF or RF64 file: samples go on to its end where no length is told, and
    a file may follow a file."""
    num_bytes = file.seek(0, os.SEEK_END)
    starts = [0]
    while True:
        file.seek(starts[-1])
        head = file.read(8)
        after = starts[-1] + 8 + int.from_bytes(head[4:], "little")
        file.seek(after)
        following = file.read(12)
        if head[:4] != b"RIFF" or following[:4] != b"RIFF" or following[8:] != b"WAVE":
            break
        starts.append(after)
    if len(starts) == 1:
        return _plan_one(file, num_bytes)
    stretches: list[Stretch] = []
    lost: Loss | None = None
    for first, end in pairwise([*starts, num_bytes]):
        part = _plan_within(file, first, end, _plan_one)
        if lost is not None:
            stretches.append(_after(part.stretches[0], lost))
        else:
            stretches.append(part.stretches[0])
        stretches += part.stretches[1:]
        lost = part.end
    return Plan(stretches, lost)


def _after(stretch: Stretch, loss: Loss) -> Stretch:
    return replace(stretch, loss=lambda num_samples, rate: loss)


def _plan_within(
    file: BinaryIO, first: int, end: int, make: Callable[[BinaryIO, int], Plan]
) -> Plan:
    """Return the plan for a part of a file, its spans counted in the whole."""
    inside = make(cast(BinaryIO, Spliced(file, [(first, end)])), end - first)
    stretches = [
        replace(
            stretch,
            spans=[
                span if isinstance(span, bytes) else (span[0] + first, span[1] + first)
                for span in stretch.spans or [(0, end - first)]
            ],
        )
        for stretch in inside.stretches
    ]
    return Plan(stretches, inside.end)


def _plan_one(file: BinaryIO, num_bytes: int) -> Plan:
    file.seek(0)
    is_long = file.read(4) == b"RF64"
    position, long_size, ds64_at, is_mpeg = 12, 0, 0, False
    while position + 8 <= num_bytes:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        position += 8
        if name == b"ds64" and is_long:
            ds64_at = position
            long_size = int.from_bytes(file.read(24)[8:16], "little")
        if name == b"fmt ":
            is_mpeg = int.from_bytes(file.read(2), "little") in _MPEG
        if name != b"data":
            position += size + size % 2
            continue
        if is_long and ds64_at and size == _IN_DS64:
            size, size_at, unknown = long_size, ds64_at + 8, 1 << 62
        else:
            size_at, unknown = position - 4, _UNKNOWN_BYTES
        there = num_bytes - position
        if size == 0 and _are_chunks(file, position, num_bytes):
            return WHOLE
        if size == 0 or (size >= unknown and size > there):
            width = 8 if unknown > _UNKNOWN_BYTES else 4
            right = min(there, 256**width - 1).to_bytes(width, "little")
            return Plan([Stretch([(0, size_at), right, (size_at + width, num_bytes)])])
        if size - there > _TOLERANCE_BYTES:
            message = (
                f"truncated: the header promises {size} bytes of audio, {size - there} are missing"
            )
            return Plan(end=Loss(message))
        return _plan_mpeg(file, position, size) if is_mpeg else WHOLE
    return WHOLE


def _plan_mpeg(file: BinaryIO, position: int, size: int) -> Plan:
    """MPEG audio in a WAV, decoded as a file of its own: its frames count samples."""
    inside = _plan_within(file, position, position + size, lambda part, _: plan_mp3(part))
    return inside if inside.stretches[0].num_samples is not None else WHOLE


def _are_chunks(file: BinaryIO, position: int, num_bytes: int) -> bool:
    """Whether nothing but whole chunks follows, so that there are no samples."""
    while position + 8 <= num_bytes:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        position += 8 + size + size % 2
    return num_bytes <= position <= num_bytes + 1
