"""Kinds of files by how they begin: raw samples do not begin like this."""

from __future__ import annotations

from asr.data.audio.mp3 import parse_frame

# As much as three frames of MP3 or AAC, or three packets of MPEG-TS, need at the usual rates.
HEAD_BYTES = 8192
_AC3_SYNC = b"\x0bw"
_BEGINNINGS = {
    b"RIFF": "WAV",
    b"RIFX": "WAV",
    b"RF64": "WAV",
    b"riff": "W64",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"NIST_1A": "SPHERE",
    b"fLaC": "FLAC",
    b"wvpk": "WavPack",
    b"MAC ": "Monkey's Audio",
    b"OggS": "Ogg",
    b"ID3\x02": "MP3",
    b"ID3\x03": "MP3",
    b"ID3\x04": "MP3",
    b"\x1aE\xdf\xa3": "WebM or Matroska",
    b"0&\xb2u": "WMA",
    b"FLV\x01": "FLV",
    b"#!AMR": "AMR",
    b"\0\0\1\xba": "MPEG",
    b"TTA1": "TTA",
    b"nut/multimedia": "NUT",
    b".RMF": "RealMedia",
    b"Creative Voice File": "VOC",
    b"\x06\x0e+4": "MXF",
    b"\0\0\0\0\x01\xbc": "GXF",
    b".SoX": "SoX",
    b"XoS.": "SoX",
    b"d\xa3\x01\0": "IRCAM",
    b"d\xa3\x02\0": "IRCAM",
    b"d\xa3\x03\0": "IRCAM",
    b"\x1f\x8b\x08": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"PK\3\4": "ZIP",
}


def kind_of_file(head: bytes) -> str | None:
    """Return what kind of file begins so; None where it is none that is known, or too short to say."""
    for beginning, kind in _BEGINNINGS.items():
        if head.startswith(beginning):
            return kind
    if head[4:8] == b"ftyp":
        return "MP4 or M4A"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "MPEG-TS"
    if _is_ac3(head):
        return "AC-3"
    for kind, size_of in (
        ("MP3", _mpeg_size),
        ("AAC", _adts_size),
        ("LATM", _loas_size),
        ("SBC", _sbc_size),
    ):
        position = 0
        for _ in range(3):
            size = size_of(head[position : position + 7])
            if not size:
                break
            position += size
        else:
            return kind
    return None


def _is_ac3(head: bytes) -> bool:
    """Return whether sync words follow at equal distances, which at 44.1 kHz differ by two bytes."""
    size = head.find(_AC3_SYNC, 64)
    return head[:2] == _AC3_SYNC and size > 0 and _AC3_SYNC in head[2 * size - 2 : 2 * size + 4]


def _mpeg_size(head: bytes) -> int:
    frame = parse_frame(head[:4])
    return 0 if frame is None else frame.size


def _adts_size(head: bytes) -> int:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _loas_size(head: bytes) -> int:
    if len(head) < 3 or head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    return ((head[1] & 0x1F) << 8 | head[2]) + 3


def _sbc_size(head: bytes) -> int:
    """Bytes of an SBC frame (A2DP specification, section 12.9)."""
    if len(head) < 3 or head[0] != 0x9C:
        return 0
    blocks, mode = 4 * (1 + (head[1] >> 4 & 3)), head[1] >> 2 & 3
    subbands, channels = (8 if head[1] & 1 else 4), (1 if mode == 0 else 2)
    size = 4 + subbands * channels // 2
    bits = blocks * head[2] * (channels if mode < 2 else 1) + (subbands if mode == 3 else 0)
    return size + -(-bits // 8)
