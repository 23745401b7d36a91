"""AIFF, AU and CAF: parts, and tails that are missing, of which libsndfile says nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from asr.data.audio.parts import plan_parts
from asr.data.audio.stretches import WHOLE, Loss, Plan, Stretch

# Fewer missing or foreign bytes are padding.
TOLERANCE_BYTES = 64
_UNKNOWN_BYTES = 0x7FFF0000
_AU_HEADS = {b".snd": "big", b"dns.": "little"}


def truncated(promised: int, there: int) -> Loss | None:
    """Return the loss of audio of which fewer bytes are there than a header promises."""
    if promised - there <= TOLERANCE_BYTES:
        return None
    return Loss(
        f"truncated: the header promises {promised} bytes of audio, {promised - there} are missing"
    )


def plan_aiff(file: BinaryIO) -> Plan:
    """Return how to decode AIFF or AIFF-C."""
    return plan_parts(file, file.seek(0, os.SEEK_END), _end_of_aiff, _plan_aiff)


def plan_au(file: BinaryIO) -> Plan:
    """Return how to decode a file of Sun's or NeXT's."""
    return plan_parts(file, file.seek(0, os.SEEK_END), _end_of_au, _plan_au)


def plan_caf(file: BinaryIO) -> Plan:
    """Return how to decode Apple's Core Audio Format."""
    return plan_parts(file, file.seek(0, os.SEEK_END), _end_of_caf, _plan_caf)


def read_at(file: BinaryIO, at: int, count: int) -> bytes:
    """Read so many bytes, or those that there are, from a place on."""
    file.seek(at)
    return file.read(count)


def _end_of_aiff(file: BinaryIO, start: int) -> int | None:
    head = read_at(file, start, 12)
    size = int.from_bytes(head[4:8], "big")
    is_aiff = head[:4] == b"FORM" and head[8:] in (b"AIFF", b"AIFC")
    return start + 8 + size + size % 2 if is_aiff and 0 < size < _UNKNOWN_BYTES else None


def _plan_aiff(file: BinaryIO, num_bytes: int) -> Plan:
    at = 12
    while len(head := read_at(file, at, 8)) == 8:
        size = int.from_bytes(head[4:], "big")
        if head[:4] == b"SSND":
            is_told = 0 < size < _UNKNOWN_BYTES
            return Plan(end=truncated(size, num_bytes - at - 8)) if is_told else WHOLE
        at += 8 + size + size % 2
    return WHOLE


def _au_span(file: BinaryIO, start: int) -> tuple[int, int] | None:
    """Return where the audio begins and how many bytes it has; None where that is not told."""
    head = read_at(file, start, 12)
    order = _AU_HEADS.get(head[:4])
    if order is None or len(head) < 12:
        return None
    offset, size = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))  # type: ignore[arg-type]
    return (start + offset, size) if 0 < size < _UNKNOWN_BYTES else None


def _end_of_au(file: BinaryIO, start: int) -> int | None:
    span = _au_span(file, start)
    return None if span is None else sum(span)


def _plan_au(file: BinaryIO, num_bytes: int) -> Plan:
    span = _au_span(file, 0)
    return WHOLE if span is None else Plan(end=truncated(span[1], num_bytes - span[0]))


def _caf_chunks(file: BinaryIO, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk's name, where its content begins, and its size (-1: up to the end)."""
    if read_at(file, start, 6) != b"caff\0\1":
        return
    at = start + 8
    while len(head := read_at(file, at, 12)) == 12 and head[:4] != b"caff":
        size = int.from_bytes(head[4:], "big", signed=True)
        yield head[:4], at + 12, size
        if size < 0:
            return
        at += 12 + size


def _end_of_caf(file: BinaryIO, start: int) -> int | None:
    end = None
    for name, at, size in _caf_chunks(file, start):
        if size < 0 or not name.isalnum():
            return None
        end = at + size
    return end


def _plan_caf(file: BinaryIO, num_bytes: int) -> Plan:
    for name, at, size in _caf_chunks(file, 0):
        if name == b"data" and (lost := truncated(size, num_bytes - at)):
            right = (num_bytes - at).to_bytes(8, "big")  # or libsndfile does not open it
            return Plan([Stretch([(0, at - 8), right, (at, num_bytes)])], lost)
    return WHOLE
