"""Ogg pages: the links of a chained stream, and the holes in it (RFC 3533, RFC 7845)."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from asr.data.audio.spliced import Span
from asr.data.audio.stretches import WHOLE, Loss, Plan, Stretch

_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_GRANULE = -1
_OPUS = b"OpusHead"
# An Opus stream counts in samples of 48 kHz at any rate.
_OPUS_RATE = 48000
# Only a damaged file lacks more.
_MOST_LOST_S = 1800
_SEARCH_BYTES = 1 << 16
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

HOLE = "damaged: pages of the Ogg stream are missing"
NO_END = "truncated: the Ogg stream has no last page"


@dataclass(frozen=True)
class _Page:
    start: int
    end: int
    flags: int
    granule: int
    serial: int
    number: int
    num_packets: int  # that end in it
    is_after_damage: bool


@dataclass(frozen=True)
class _Link:
    """One logical stream: header pages, then pages of sound."""

    headers: list[_Page]
    pages: list[_Page]
    kind: bytes


def plan_ogg(file: BinaryIO) -> Plan | None:
    """Return how to decode an Ogg file; None where libsndfile decodes no stream of it."""
    pages = list(_read_pages(file))
    links = [link for group in _grouped(pages) if (link := _link(file, group)) is not None]
    if not links:
        return None if pages else WHOLE
    stretches: list[Stretch] = []
    end: Loss | None = None
    for link in links:
        stretches += _stretches(file, link, end)
        is_ended = bool(link.pages) and bool(link.pages[-1].flags & _LAST)
        end = None if is_ended else Loss(NO_END)
    is_plain = len(stretches) == 1 and len({page.serial for page in pages}) == 1
    return Plan(end=end) if is_plain else Plan(stretches, end)


def _read_pages(file: BinaryIO) -> Iterator[_Page]:
    """Whole pages whose checksum is right; whatever else there is is skipped."""
    size = file.seek(0, os.SEEK_END)
    position, is_damaged = 0, False
    while position < size:
        file.seek(position)
        page = _parse(file, position, is_damaged)
        if page is None:
            is_damaged = True
            position = _find(file, position + 1, size)
        else:
            yield page
            is_damaged = False
            position = page.end


def _parse(file: BinaryIO, position: int, is_after_damage: bool) -> _Page | None:
    head = file.read(_HEADER.size)
    if len(head) < _HEADER.size or head[:5] != b"OggS\0":
        return None
    _, _, flags, granule, serial, number, checksum, num_segments = _HEADER.unpack(head)
    lacing = file.read(num_segments)
    body = file.read(sum(lacing))
    if len(lacing) < num_segments or len(body) < sum(lacing):
        return None
    if _checksum(head[:22] + bytes(4) + head[26:] + lacing + body) != checksum:
        return None
    num_packets = len(lacing) - lacing.count(255)
    end = position + len(head) + len(lacing) + len(body)
    return _Page(position, end, flags, granule, serial, number, num_packets, is_after_damage)


def _find(file: BinaryIO, position: int, size: int) -> int:
    """Return where the next page may begin, or the end of the file."""
    while position < size:
        file.seek(position)
        found = file.read(_SEARCH_BYTES).find(b"OggS")
        if found >= 0:
            return position + found
        position += _SEARCH_BYTES - 3
    return size


def _checksum(page: bytes) -> int:
    """CRC-32 as Ogg has it: that of zlib with the bits of all bytes in reverse, and no inversion."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _grouped(pages: list[_Page]) -> Iterator[list[_Page]]:
    """The pages of each link: a link begins with the first pages of all its streams."""
    group: list[_Page] = []
    for page in pages:
        if group and page.flags & _FIRST and not group[-1].flags & _FIRST:
            yield group
            group = []
        group.append(page)
    if group:
        yield group


def _link(file: BinaryIO, group: list[_Page]) -> _Link | None:
    """The first stream of a link that libsndfile decodes."""
    for first in group:
        if not first.flags & _FIRST:
            return None
        packet = _body(file, first)
        if packet.startswith(_OPUS):
            num_headers = 2
        elif packet.startswith(b"\x01vorbis"):
            num_headers = 3
        elif packet.startswith(b"\x7fFLAC"):
            num_headers = 1 + int.from_bytes(packet[7:9], "big")
        else:
            continue
        own = [page for page in group if page.serial == first.serial]
        num_packets = at = 0
        while at < len(own) and num_packets < num_headers:
            num_packets += own[at].num_packets
            at += 1
        return _Link(own[:at], own[at:], packet[:8])
    return None


def _body(file: BinaryIO, page: _Page) -> bytes:
    file.seek(page.start)
    content = file.read(page.end - page.start)
    return content[_HEADER.size + content[26] :]


def _stretches(file: BinaryIO, link: _Link, before_it: Loss | None) -> Iterator[Stretch]:
    """A link without holes is one; after a hole, headers are put before what follows."""
    runs: list[list[_Page]] = [[]]
    for before, page in pairwise([link.headers[-1], *link.pages]):
        if page.is_after_damage or page.number != before.number + 1:
            runs.append([])
        runs[-1].append(page)
    runs = [run for number, run in enumerate(runs) if run or number == 0]
    for number, run in enumerate(runs):
        if number == 0:
            yield Stretch(_joined([*link.headers, *run]), lambda num_samples, rate: before_it)
        else:
            yield Stretch(_restarted(file, link, run), _loss(link, runs[number - 1], run))


def _joined(pages: list[_Page]) -> list[Span]:
    """Spans of the pages, neighbours as one."""
    spans: list[tuple[int, int]] = []
    for page in pages:
        if spans and spans[-1][1] == page.start:
            spans[-1] = spans[-1][0], page.end
        else:
            spans.append((page.start, page.end))
    return list(spans)


def _restarted(file: BinaryIO, link: _Link, run: list[_Page]) -> list[Span]:
    """The headers, numbered so that no decoder sees a hole, and the pages after it.

    Nothing is to be skipped at the start of an Opus stream that goes on.
    """
    spans: list[Span] = []
    for at, page in enumerate(link.headers):
        file.seek(page.start)
        content = bytearray(file.read(page.end - page.start))
        number = (run[0].number - len(link.headers) + at) & 0xFFFFFFFF
        content[18:22] = number.to_bytes(4, "little")
        if at == 0 and link.kind == _OPUS:
            pre_skip = _HEADER.size + content[26] + 10
            content[pre_skip : pre_skip + 2] = bytes(2)
        content[22:26] = bytes(4)
        content[22:26] = _checksum(bytes(content)).to_bytes(4, "little")
        spans.append(bytes(content))
    return [*spans, *_joined(run)]


def _loss(link: _Link, before: list[_Page], run: list[_Page]) -> Callable[[int, int], Loss | None]:
    """What is missing before ``run``: from where the last run ended to where this one starts."""
    end_before, end = _end(before), _end(run)

    def loss(num_samples: int, rate: int) -> Loss:
        if end is None or end_before is None:
            return Loss(HOLE)
        counted_at = _OPUS_RATE if link.kind == _OPUS else rate
        missing = round((end - end_before) * rate / counted_at) - num_samples
        return Loss(HOLE, missing if 0 <= missing <= _MOST_LOST_S * rate else None)

    return loss


def _end(pages: list[_Page]) -> int | None:
    return next((page.granule for page in reversed(pages) if page.granule != _NO_GRANULE), None)
