"""WAV headers: lengths that their writers did not know, and tails that are missing."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from asr.data.audio.headers import TOLERANCE_BYTES, truncated
from asr.data.audio.mp3 import plan_mp3, tag_bytes
from asr.data.audio.parts import plan_parts, plan_within
from asr.data.audio.stretches import WHOLE, Loss, Plan, Stretch

# Writers to a pipe cannot know the length and leave 0 or a huge number.
_UNKNOWN_BYTES = 0x7FFF0000
_MOST_PADDING = 1 << 20
_MPEG = (0x50, 0x55)
_IN_DS64 = 0xFFFFFFFF
# Of those that follow samples, and may be cut off themselves.
_CHUNKS = (b"LIST", b"bext", b"iXML", b"cue ", b"smpl", b"fact", b"PEAK", b"JUNK", b"id3 ", b"axml")
_OTHER_FILES = (b"RIFF", b"RF64", b"RIFX", b"FORM", b"OggS", b"fLaC", b"caff", b".snd")


def plan_wav(file: BinaryIO) -> Plan:
    """Return how to decode a RIFF or RF64 file: samples go on to its end where no length is told, and
    a file may follow a file."""
    return plan_parts(file, file.seek(0, os.SEEK_END), _end_of_riff, _plan_one)


def _end_of_riff(file: BinaryIO, start: int) -> int | None:
    file.seek(start)
    head = file.read(12)
    is_wav = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    return start + 8 + int.from_bytes(head[4:8], "little") if is_wav else None


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
        if lost := truncated(size, there):
            return Plan(end=lost)
        if is_mpeg:
            return _plan_mpeg(file, position, size)
        end = position + size
        # writers forget the byte that makes a chunk's length even
        lost = _unread(file, end + size % 2, num_bytes) and _unread(file, end, num_bytes)
        # libsndfile does not open a file with a second chunk of audio
        return Plan([Stretch([(0, end)])], lost) if lost else WHOLE
    return WHOLE


def _plan_mpeg(file: BinaryIO, position: int, size: int) -> Plan:
    """MPEG audio in a WAV, decoded as a file of its own: its frames count samples."""
    inside = plan_within(file, position, position + size, lambda part, _: plan_mp3(part))
    return inside if inside.stretches[0].num_samples is not None else WHOLE


def _unread(file: BinaryIO, position: int, num_bytes: int) -> Loss | None:
    """Return the loss of what follows the samples and is neither a chunk, nor a tag, nor padding:
    samples of which the header does not know, or of a second chunk of them."""
    while position + 8 <= num_bytes:
        file.seek(position)
        head = file.read(32)
        name, size = struct.unpack("<4sI", head[:8])
        rest = num_bytes - position
        if name == b"data" and size > TOLERANCE_BYTES:
            return Loss(f"a second chunk of audio, of {size} bytes, is not read")
        if tag := tag_bytes(head):
            position += tag
            continue
        # samples may happen to read as a name, hardly with a size that fits
        is_chunk = name in _CHUNKS or (
            all(0x20 <= byte < 0x7F for byte in name) and size <= rest - 8 + TOLERANCE_BYTES
        )
        if not is_chunk or name in _OTHER_FILES:
            file.seek(position)
            is_padding = rest <= TOLERANCE_BYTES or not file.read(_MOST_PADDING).strip(b"\0")
            return None if is_padding else Loss(f"{rest} bytes after the audio are not read")
        position += 8 + size + size % 2
    return None


def _are_chunks(file: BinaryIO, position: int, num_bytes: int) -> bool:
    """Tell whether nothing but whole chunks follows, so that there are no samples."""
    while position + 8 <= num_bytes:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        position += 8 + size + size % 2
    return num_bytes <= position <= num_bytes + 1
