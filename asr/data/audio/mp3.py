"""MPEG audio frames: the parts of a concatenated file, and what their headers promise.

Every part (what one encoder wrote) is decoded by itself, encoder delay and padding removed where a
LAME tag gives them, as FFmpeg and libmpg123 do for a file that is one part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

from asr.data.audio.spliced import Span
from asr.data.audio.stretches import WHOLE, Loss, Plan, Stretch

# The length that a header gives counts encoder delay and padding, at most some four frames.
TOLERANCE_FRAMES = 4
DAMAGED = "damaged: bytes that are no MP3 frames"
TRUNCATED = "truncated: fewer MP3 frames than its header promises"
_HEAD_BYTES = 64
# Samples, of any decoder of layer III.
_DECODER_DELAY = 529
_SEARCH_BYTES = 1 << 16
_KBITS = {  # by (is version 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)


@dataclass(frozen=True)
class Frame:
    """What the four bytes of a frame's header say."""

    size: int
    kind: tuple[int, int, int, int]  # version, layer, rate, channels: the same in all of a part
    num_samples: int
    tag_at: int  # where the frame of a Xing or Info header has it


@lru_cache(4096)  # a file has a few headers, but damage has many
def parse_frame(head: bytes) -> Frame | None:
    """Return the frame of a 4 byte header; None where it is none, or of a free bit rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version = {0: 4, 2: 2, 3: 1}.get(head[1] >> 3 & 3, 0)  # 4 is MPEG 2.5
    layer = 4 - (head[1] >> 1 & 3)
    rate_index, bits_index = head[2] >> 2 & 3, head[2] >> 4
    if not version or layer == 4 or rate_index == 3 or bits_index in (0, 15):
        return None
    is_first = version == 1
    rate = _RATES[rate_index] // version
    bits = 1000 * _KBITS[is_first, layer if is_first else min(layer, 2)][bits_index - 1]
    padding = head[2] >> 1 & 1
    channels = 1 if head[3] >> 6 == 3 else 2
    if layer == 1:
        size, num_samples = (12 * bits // rate + padding) * 4, 384
    else:
        num_samples = 576 if layer == 3 and not is_first else 1152
        size = num_samples // 8 * bits // rate + padding
    side_bytes = (17, 32)[channels - 1] if is_first else (9, 17)[channels - 1]
    return Frame(size, (version, layer, rate, channels), num_samples, 4 + side_bytes)


@dataclass
class _Part:
    """Frames of one kind without a break.

    Attributes:
        start, end: of its bytes, the frame of a Xing header included.
        first: where its first frame of sound begins.
        promised: frames of sound by the Xing header, 0: there is none.
        is_new: what one encoder wrote begins here; else it goes on after damage.
        junk: bytes before it that are no frames.
    """

    start: int
    end: int
    first: int
    frame: Frame
    promised: int
    is_new: bool
    junk: int
    num_frames: int = 0

    @property
    def num_samples(self) -> int:
        return self.num_frames * self.frame.num_samples


def plan_mp3(file: BinaryIO) -> Plan:
    """Return how to decode an MPEG audio file from its first frame to its last."""
    walk = _Walk(file)
    parts = [part for part in walk.parts() if part.num_frames]
    if not parts:
        return WHOLE
    stretches: list[Stretch] = []
    short = 0  # frames that the last Xing header promised and that have not come
    for part, before in zip(parts, [None, *parts], strict=False):
        loss = None
        if before is not None and not part.is_new:
            lost = _num_lost(part.junk, before)
            short = max(0, short - lost)
            loss = Loss(DAMAGED, lost * part.frame.num_samples)
        elif before is not None and short > TOLERANCE_FRAMES:
            loss = Loss(TRUNCATED, short * before.frame.num_samples)
        short = max(0, part.promised - part.num_frames) if part.is_new else short - part.num_frames
        stretches.append(_stretch(file, part, loss, is_only=len(parts) == 1))
    last = parts[-1]
    if short > TOLERANCE_FRAMES:
        return Plan(stretches, Loss(TRUNCATED, short * last.frame.num_samples))
    lost = _num_lost(walk.junk_at_end, last)
    is_damaged = lost > TOLERANCE_FRAMES
    return Plan(stretches, Loss(DAMAGED, lost * last.frame.num_samples) if is_damaged else None)


def _stretch(file: BinaryIO, part: _Part, loss: Loss | None, is_only: bool) -> Stretch:
    spans: list[Span] | None = None if is_only else [(part.start, part.end)]
    is_counted = 0 < part.promised >= part.num_frames - TOLERANCE_FRAMES
    if part.frame.kind[1] == 3 and not is_counted:
        spans = [_counted(file, part), (part.first, part.end)]
    tolerance = TOLERANCE_FRAMES * part.frame.num_samples
    return Stretch(spans, lambda num_samples, rate: loss, part.num_samples, tolerance)


def _counted(file: BinaryIO, part: _Part) -> bytes:
    """A Xing header that counts the frames of the part, and a silent frame: libsndfile reads no further
    than libmpg123 guesses, by the first frame's bit rate, where there is no count or another's.

    Where there is a count libmpg123 takes off the delay of a decoder, so encoder delay and padding are
    set such that it takes the silent frame.
    """
    file.seek(part.first)
    head = bytearray(file.read(4))
    head[1] |= 1  # no checksum
    head[2] = head[2] & 0x0C | 0xE0  # the highest bit rate, so that there is room
    frame = parse_frame(bytes(head))
    assert frame is not None
    silent = bytes(head).ljust(frame.size, b"\0")
    count = (1 + part.num_frames).to_bytes(4, "big")
    delays = (frame.num_samples - _DECODER_DELAY) << 12 | _DECODER_DELAY
    tag = b"Xing\0\0\0\1" + count + b"LAME3.100".ljust(21, b"\0") + delays.to_bytes(3, "big")
    header = silent[: frame.tag_at] + tag
    return header.ljust(frame.size, b"\0") + silent


def _num_lost(junk: int, before: _Part) -> int:
    """Frames that so many bytes were, of the mean size of those before."""
    return round(junk * before.num_frames / (before.end - before.start))


class _Walk:
    """From frame to frame, with tags of all kinds skipped and damage passed over."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        self.junk_at_end = 0

    def parts(self) -> Iterator[_Part]:
        part: _Part | None = None
        position, junk, is_new = 0, 0, True
        while position < self._size:
            head = self._read(position, _HEAD_BYTES)
            frame = parse_frame(head[:4])
            if part is not None and frame is not None and frame.kind != part.frame.kind:
                # another encoder's, if more of its frames follow, else bytes that look like one
                if not self._is_followed(position, frame):
                    frame = None
                else:
                    is_new = True
            elif part is None and frame is not None and not self._is_followed(position, frame):
                frame = None
            if frame is None or position + frame.size > self._size:
                after = position + tag_bytes(head)
                if after == position:
                    after = self._find(position + 1, None if part is None else part.frame.kind)
                    is_padding = after == self._size and not self._read(position, 1 << 20).strip(
                        b"\0"
                    )
                    junk += 0 if is_padding else after - position
                else:
                    is_new = True
                position = after
                continue
            promised = _promised(head, frame)
            if promised is None and part is not None and part.num_frames == part.promised:
                is_new = is_new or (part.promised > 0 and _needs_nothing_before(head, frame))
            if part is None or is_new or junk or promised is not None:
                if part is not None:
                    yield part
                is_new = is_new or part is None or promised is not None
                part = _Part(position, position, position, frame, promised or 0, is_new, junk)
                junk, is_new = 0, False
            position += frame.size
            part.end = position
            if promised is None:
                part.num_frames += 1
            else:
                part.first = position
        if part is not None:
            self.junk_at_end = junk
            yield part

    def _read(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        return self._file.read(count)

    def _is_followed(self, position: int, frame: Frame) -> bool:
        """Return whether the next frame, or the end of the file, is where this one ends."""
        after = position + frame.size
        following = parse_frame(self._read(after, 4))
        return after == self._size or (following is not None and following.kind == frame.kind)

    def _find(self, position: int, kind: tuple[int, int, int, int] | None) -> int:
        """The next frame (of that kind) or tag, else the end of the file."""
        while position < self._size:
            content = self._read(position, _SEARCH_BYTES)
            at = content.find(b"\xff")
            while at >= 0:
                frame = parse_frame(content[at : at + 4])
                if frame is not None and kind not in (None, frame.kind):
                    frame = None
                if frame is not None and self._is_followed(position + at, frame):
                    return position + at
                at = content.find(b"\xff", at + 1)
            if len(content) < _SEARCH_BYTES:
                break
            position += len(content) - 3
        return self._size


def tag_bytes(head: bytes) -> int:
    """Return how long the tag is that begins here, 0 where none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        return size + (20 if head[5] & 0x10 else 10)
    if head[:3] == b"TAG":
        return 128
    if head[:8] == b"APETAGEX" and len(head) >= 24:
        has_footer_only = not head[23] & 0x20
        return 32 if has_footer_only else 32 + int.from_bytes(head[12:16], "little")
    return 0


def _promised(head: bytes, frame: Frame) -> int | None:
    """Frames that the header in this frame promises (0: it does not say); None: an ordinary frame."""
    if frame.kind[1] != 3:
        return None
    if head[36:40] == b"VBRI":
        return int.from_bytes(head[50:54], "big")
    for at in (frame.tag_at, frame.tag_at + 2):  # a checksum lies before it
        if head[at : at + 4] in (b"Xing", b"Info"):
            has_count = head[at + 7] & 1 if len(head) > at + 12 else 0
            return int.from_bytes(head[at + 8 : at + 12], "big") if has_count else 0
    return None


def _needs_nothing_before(head: bytes, frame: Frame) -> bool:
    """Whether the frame refers to no bytes of frames before it, as an encoder's first does not."""
    if frame.kind[1] != 3:
        return True
    at = 4 if head[1] & 1 else 6
    return not head[at] and (frame.kind[0] != 1 or not head[at + 1] & 0x80)
