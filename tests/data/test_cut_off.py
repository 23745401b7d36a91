"""Files that end too early, in every format whose header tells a length; others are read whole."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio.blocks import read_blocks
from asr.data.audio.error import AudioError
from asr.data.audio.gaps import Gap
from asr.data.audio.samples import check_audio

RATE = 16000
FORMATS = [
    ("W64", "FILE"), ("NIST", "FILE"), ("NIST", "BIG"), ("SVX", "FILE"), ("AVR", "FILE"),
    ("VOC", "FILE"), ("MAT5", "LITTLE"), ("MAT5", "BIG"), ("WAV", "BIG"),
]  # fmt: skip
NO_LENGTH = [("IRCAM", "FILE"), ("PAF", "FILE"), ("PVF", "FILE")]


def speechlike(duration_s: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-0.4, 0.4, int(duration_s * RATE)).astype(np.float32)


def packed(kind: str, endian: str, channels: int = 1) -> bytes:
    file = io.BytesIO()
    samples = np.repeat(speechlike()[:, None], channels, 1)
    soundfile.write(file, samples, RATE, format=kind, subtype="PCM_16", endian=endian)
    return file.getvalue()


def read(path: Path) -> tuple[int, list[str]]:
    gaps: list[Gap] = []
    blocks = [*read_blocks(path, RATE, gaps)]
    return sum(map(len, blocks)), [gap.reason for gap in gaps]


@pytest.mark.parametrize(("kind", "endian"), FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_missing_tail_is_told(kind: str, endian: str, channels: int, tmp_path: Path) -> None:
    if (kind, channels) in (("SVX", 2), ("AVR", 2)):
        channels = 1  # libsndfile writes no other
    content, path = packed(kind, endian, channels), tmp_path / "a.wav"
    for padding in (0, 8):  # which libsndfile takes for samples
        path.write_bytes(content + bytes(padding))
        num_samples, told = read(path)
        assert 2 * RATE <= num_samples <= 2 * RATE + padding // 2
        assert told == []
        check_audio(path)
    for share in (0.3, 0.6, 0.98):
        path.write_bytes(content[: int(share * len(content)) // 4 * 4])
        num_samples, told = read(path)
        assert num_samples == pytest.approx(share * 2 * RATE, abs=600)
        assert len(told) == 1
        assert "truncated" in told[0]
        with pytest.raises(AudioError, match="truncated"):
            check_audio(path)


@pytest.mark.parametrize(("kind", "endian"), NO_LENGTH)
def test_formats_without_a_length_are_read_as_they_come(
    kind: str, endian: str, tmp_path: Path
) -> None:
    content, path = packed(kind, endian), tmp_path / "a.wav"
    path.write_bytes(content[: len(content) // 2])
    num_samples, told = read(path)
    assert num_samples == pytest.approx(RATE, abs=600)
    assert told == []


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content


WAV = packed("WAV", "FILE")
DATA_AT = WAV.index(b"data") + 8


@pytest.mark.parametrize("spelt", [b"n;B&", b"LISu", b"~~~~", b"dat "])
def test_samples_that_read_as_a_name_are_a_loss(spelt: bytes, tmp_path: Path) -> None:
    short, path = 40_000, tmp_path / "a.wav"
    content = bytearray(WAV)
    content[DATA_AT - 4 : DATA_AT] = struct.pack("<I", short)
    content[DATA_AT + short : DATA_AT + short + 4] = spelt
    path.write_bytes(content)
    assert read(path) == (
        short // 2,
        [f"{len(WAV) - DATA_AT - short} bytes after the audio are not read"],
    )


MP3 = b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + b"\xff\xfb\x90\x64" + bytes(range(200)) * 10


@pytest.mark.parametrize(
    ("tail", "is_lost"),
    [
        (MP3, True),
        (b"ID3\4\0\0\0\0\0\x0a" + b"x" * 10, False),
        (b"TAG" + b"x" * 125, False),
        (b"TAG" + b"x" * 125 + b"\1\2" * 500, True),
        (chunk(b"LIST", b"INFO" + b"x" * 1000), False),
        (chunk(b"LIST", b"INFO" + b"x" * 1000)[:600], False),
        (chunk(b"mine", b"x" * 1000), False),
        (WAV[:4] + bytes(4) + WAV[8:], True),
        (b"OggS" + b"\3" * 4000, True),
        (b"fLaC" + b"\3" * 4000, True),
    ],
)
@pytest.mark.parametrize("is_riff_size_known", [True, False])
def test_what_follows_the_samples(
    tail: bytes, is_lost: bool, is_riff_size_known: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    head = WAV if is_riff_size_known else WAV[:4] + bytes(4) + WAV[8:]
    path.write_bytes(head + tail)
    num_samples, told = read(path)
    if is_riff_size_known and tail[:4] == b"RIFF":  # then it is known where the next one begins
        assert (num_samples, told) == (4 * RATE, [])
    else:
        assert (num_samples, bool(told)) == (2 * RATE, is_lost)


def test_nothing_but_tags_is_an_error_without_a_word_of_the_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(b"ID3\3\0\0\0\0\0\0" * 5000)
    with pytest.raises(AudioError):
        read(path)
    assert capfd.readouterr() == ("", "")
