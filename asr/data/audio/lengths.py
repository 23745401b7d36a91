"""Bytes of audio that the headers of seldom formats promise, of which libsndfile says nothing.

IRCAM, PAF and PVF tell no length, MAT4, SDS, XI, MPC2K and WVE are not looked into: that such a file was
cut off is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from asr.data.audio.headers import read_at, truncated
from asr.data.audio.stretches import WHOLE, Plan

_W64_GUID = bytes.fromhex("2e91cf11a5d628db04c10000")  # after b"riff"
_MOST_CHUNKS = 4096
_UNKNOWN_BYTES = 0x7FFF0000  # or more, from writers to a pipe

End = int | None
"""Where the audio ends by the header; None where that is not told."""


def plan_by_length(file: BinaryIO, head: bytes) -> Plan:
    """Return the plan of a file of one of these formats, or of any other, which is read as it comes."""
    for is_it, end_of in _ENDS:
        if is_it(head):
            num_bytes = file.seek(0, os.SEEK_END)
            end = end_of(file, num_bytes)
            return WHOLE if end is None else Plan(end=truncated(end, num_bytes))
    return WHOLE


def _end_of_chunk(name: bytes) -> Callable[[BinaryIO, int], End]:
    """Make the function for the big-endian chunk of that name, in RIFX and IFF."""

    def end_of(file: BinaryIO, num_bytes: int) -> End:
        at = 12
        for _ in range(_MOST_CHUNKS):
            head = read_at(file, at, 8)
            if len(head) < 8:
                return None
            size = int.from_bytes(head[4:], "big")
            if head[:4] == name:
                return at + 8 + size if 0 < size < _UNKNOWN_BYTES else None
            at += 8 + size + size % 2
        return None

    return end_of


def _end_of_w64(file: BinaryIO, num_bytes: int) -> End:
    at = 40
    for _ in range(_MOST_CHUNKS):
        head = read_at(file, at, 24)
        size = int.from_bytes(head[16:], "little")
        if len(head) < 24 or size < 24:
            return None
        if head[:4] == b"data":
            return at + size
        at += -(-size // 8) * 8
    return None


def _end_of_sphere(file: BinaryIO, num_bytes: int) -> End:
    fields = {}
    for line in read_at(file, 0, 1024).split(b"\n"):
        words = line.split(None, 2)
        if len(words) == 3:
            fields[words[0]] = words[2].strip()
    try:
        start = int(read_at(file, 8, 8))
        count, channels, width = (
            int(fields[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")
        )
    except (KeyError, ValueError):
        return None
    packed = b"," in fields.get(b"sample_coding", b"")  # as in "pcm,embedded-shorten-v2.00"
    return None if packed else start + count * channels * width


def _end_of_avr(file: BinaryIO, num_bytes: int) -> End:
    head = read_at(file, 0, 128)
    if len(head) < 128:
        return None
    channels = 2 if head[12:14] != b"\0\0" else 1
    width = int.from_bytes(head[14:16], "big") // 8
    return 128 + int.from_bytes(head[26:30], "big") * channels * width


def _end_of_voc(file: BinaryIO, num_bytes: int) -> End:
    at = int.from_bytes(read_at(file, 20, 2), "little")
    for _ in range(_MOST_CHUNKS):
        head = read_at(file, at, 4)
        if len(head) < 4 or head[0] == 0:
            return None
        at += 4 + int.from_bytes(head[1:], "little")
        if at > num_bytes:
            return at
    return None


def _end_of_mat5(file: BinaryIO, num_bytes: int) -> End:
    order = "little" if read_at(file, 126, 2) == b"IM" else "big"
    at = 128
    for _ in range(_MOST_CHUNKS):
        head = read_at(file, at, 8)
        if len(head) < 8:
            return None
        at += 8 + int.from_bytes(head[4:], order)  # type: ignore[arg-type]
        if at > num_bytes:
            return at
    return None


_ENDS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], End]], ...] = (
    (lambda head: head[:4] == b"RIFX", _end_of_chunk(b"data")),
    (lambda head: head[:4] == b"FORM" and head[8:] in (b"8SVX", b"16SV"), _end_of_chunk(b"BODY")),
    (lambda head: head == b"riff" + _W64_GUID[:8], _end_of_w64),
    (lambda head: head[:7] == b"NIST_1A", _end_of_sphere),
    (lambda head: head[:4] == b"2BIT", _end_of_avr),
    (lambda head: head == b"Creative Voi", _end_of_voc),
    (lambda head: head == b"MATLAB 5.0 M", _end_of_mat5),
)
