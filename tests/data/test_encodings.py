"""Every encoding gives PyAV's samples, read whole, in blocks and by segments, and nothing on stderr.

Oracle: PyAV's decoding of the whole file (FFmpeg). Encoder delay and padding are removed where a LAME
tag, an edit list or a granule position gives them, as FFmpeg does. Each part of a chained or
concatenated file is decoded as a file of its own, so there the oracle decodes the parts.
"""

from __future__ import annotations

import io
import os
import struct
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import AudioSource, MonoCut, Recording

from asr.data.audio import samples as audio
from asr.data.audio.blocks import read_blocks
from asr.data.audio.gaps import Gap
from asr.data.audio.samples import AudioError
from asr.data.store.manifest import load_waveform

av = pytest.importorskip("av", reason="PyAV not installed")

SECONDS = 12.0


@cache
def speechlike(rate: int, seed: int = 0) -> np.ndarray:
    """float32 (n,): tones that glide and stop, and noise: what makes a VBR encoder vary its rate."""
    rng = np.random.default_rng(seed)
    t_n = np.arange(int(SECONDS * rate)) / rate
    loud_n = (np.sin(2 * np.pi * 0.7 * t_n + seed) > -0.3) * np.abs(np.sin(2 * np.pi * 3.1 * t_n))
    tones_n = sum(
        np.sin(2 * np.pi * (k * 140 * t_n + 8 * np.sin(2 * t_n))) / k for k in range(1, 9)
    )
    wave_n = loud_n * (0.15 * tones_n + 0.03 * rng.standard_normal(len(t_n)))
    return wave_n.clip(-0.9, 0.9).astype(np.float32)


def encoded(
    container: str, codec: str, wave_n: np.ndarray, rate: int, options: dict[str, str], **to: str
) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=to) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono", options=options)
        resampler = av.AudioResampler(
            stream.format, "mono", rate, stream.codec_context.frame_size or 1024
        )
        sound = av.AudioFrame.from_ndarray(wave_n[None], format="flt", layout="mono")
        sound.rate = rate
        for frame in [*resampler.resample(sound), *resampler.resample(None)]:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def mp3(rate: int, seed: int = 0, xing: int = 1, **options: str) -> bytes:
    wave_n = speechlike(rate, seed)
    return encoded("mp3", "libmp3lame", wave_n, rate, options, write_xing=str(xing))


def vorbis_or_opus(subtype: str, seed: int = 0, rate: int = 48000) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, 1, subtype, format="OGG") as output:
        output.write(speechlike(rate, seed))
    return file.getvalue()


def wav(size: int | None = None, kind: str = "WAV", rate: int = 16000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speechlike(rate), rate, format=kind, subtype="PCM_16")
    content = bytearray(file.getvalue())
    if size is not None:
        at = content.index(b"data") + 4
        content[at : at + 4] = struct.pack("<I", size)
    return bytes(content)


def chunk(name: bytes, size: int) -> bytes:
    return name + struct.pack("<I", size) + b"x" * (size + size % 2)


def with_bytes(content: bytes, at: int, new: bytes) -> bytes:
    return content[:at] + new + content[at + len(new) :]


def flac(is_piped: bool) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, speechlike(44100), 44100, format="FLAC")
    content = bytearray(file.getvalue())
    if is_piped:  # no total, no seek table
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    return bytes(content)


def mp3_in_wav(**options: str) -> bytes:
    wave_n = np.tile(speechlike(44100), 3)
    return encoded("wav", "libmp3lame", wave_n, 44100, options or {"b": "64000"})


ID3 = b"ID3\x04\0\0\0\0\0\x20" + bytes(32)


Made = Callable[[], list[bytes]]
"""The parts of a file, each a file by itself."""

ENCODINGS: dict[str, tuple[str, Made]] = {
    "vbr-16000": ("mp3", lambda: [mp3(16000, q="5")]),
    "vbr-22050-q9": ("mp3", lambda: [mp3(22050, q="9")]),
    "vbr-32000-no-xing": ("mp3", lambda: [mp3(32000, xing=0, q="4")]),
    "vbr-44100-no-xing": ("mp3", lambda: [mp3(44100, xing=0, q="9")]),
    "vbr-48000-q5": ("mp3", lambda: [mp3(48000, q="5")]),
    "abr-44100": ("mp3", lambda: [mp3(44100, abr="1", b="56000")]),
    "abr-24000-no-xing": ("mp3", lambda: [mp3(24000, xing=0, abr="1", b="40000")]),
    "cbr-8000": ("mp3", lambda: [mp3(8000, b="16000")]),
    "cbr-16000-no-xing": ("mp3", lambda: [mp3(16000, xing=0, b="32000")]),
    "cbr-44100": ("mp3", lambda: [mp3(44100, b="64000")]),
    "two-mp3": ("mp3", lambda: [mp3(44100, q="5"), mp3(44100, 1, q="5")]),
    "two-mp3-no-xing": ("mp3", lambda: [mp3(44100, xing=0, q="5"), mp3(44100, 1, q="5")]),
    "opus": ("opus", lambda: [vorbis_or_opus("OPUS")]),
    "vorbis": ("ogg", lambda: [vorbis_or_opus("VORBIS")]),
    "chained-vorbis": ("ogg", lambda: [vorbis_or_opus("VORBIS"), vorbis_or_opus("VORBIS", 1)]),
    "chained-opus": ("opus", lambda: [vorbis_or_opus("OPUS", seed) for seed in range(3)]),
    "the-same-link-twice": ("opus", lambda: 2 * [vorbis_or_opus("OPUS")]),
    "flac": ("flac", lambda: [flac(is_piped=False)]),
    "flac-piped": ("flac", lambda: [flac(is_piped=True)]),
    "two-flac": ("flac", lambda: [flac(is_piped=True), flac(is_piped=False)]),
    "two-wav": ("wav", lambda: [wav(), wav()]),
    "two-mp3-tagged": (
        "mp3",
        lambda: [mp3(44100, q="5") + b"TAG" + bytes(125), mp3(44100, b="64000")],
    ),
    "m4a": ("m4a", lambda: [encoded("ipod", "aac", speechlike(44100), 44100, {})]),
    "webm": ("webm", lambda: [encoded("webm", "libopus", speechlike(48000), 48000, {})]),
    "wav": ("wav", lambda: [wav()]),
    "wav-size-0": ("wav", lambda: [wav(0)]),
    "wav-size-unknown": ("wav", lambda: [wav(0xFFFFFFFF)]),
    "rf64": ("wav", lambda: [wav(kind="RF64")]),
    "mp3-in-wav": ("wav", lambda: [mp3_in_wav()]),
    "vbr-mp3-in-wav": ("wav", lambda: [mp3_in_wav(q="5")]),
    "two-wav-the-last-of-size-0": ("wav", lambda: [wav(), wav(0)]),
    "wav-of-two-bytes-more": ("wav", lambda: [wav() + b"\x01\x02"]),
    "wav-padded": ("wav", lambda: [wav() + bytes(5000)]),
    "wav-with-chunks": ("wav", lambda: [wav() + chunk(b"LIST", 501) + chunk(b"id3 ", 200)]),
    "wav-with-a-tag": ("wav", lambda: [wav() + b"TAG" + bytes(range(1, 126))]),
    "aiff": ("aiff", lambda: [wav(kind="AIFF")]),
    "au": ("au", lambda: [wav(kind="AU")]),
    "caf": ("caf", lambda: [wav(kind="CAF")]),
    "two-aiff": ("aiff", lambda: 2 * [wav(kind="AIFF")]),
    "two-au": ("au", lambda: 2 * [wav(kind="AU")]),
    "two-caf": ("caf", lambda: 2 * [wav(kind="CAF")]),
    "au-size-unknown": ("au", lambda: [with_bytes(wav(kind="AU"), 8, b"\xff" * 4)]),
    "flac-tagged": ("flac", lambda: [ID3 + flac(is_piped=False)]),
    "two-flac-tagged": ("flac", lambda: [ID3 + flac(is_piped=True), flac(is_piped=False)]),
}


def by_pyav(content: bytes) -> tuple[np.ndarray, int]:
    pieces = []
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("flt", "mono", stream.rate)
        for frame in [*container.decode(stream), None]:
            pieces += [block.to_ndarray()[0] for block in resampler.resample(frame)]
        return np.concatenate(pieces), stream.rate


def segment(path: Path, rate: int, num_samples: int, first: int, count: int) -> np.ndarray:
    """Through Lhotse, as training reads."""
    recording = Recording(
        "a", [AudioSource("file", [0], str(path))], rate, num_samples, num_samples / rate
    )
    cut = MonoCut("a", first / rate, count / rate, 0, recording=recording)
    return load_waveform(cut, rate)


@pytest.mark.parametrize("name", ENCODINGS)
def test_samples_are_pyavs(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix, make = ENCODINGS[name]
    parts = make()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"".join(parts))
    decoded = [by_pyav(part) for part in parts]
    rate = decoded[0][1]
    expected_n = np.concatenate([samples_n for samples_n, _ in decoded])

    def check(found_n: np.ndarray, first: int = 0) -> None:
        np.testing.assert_allclose(found_n, expected_n[first : first + len(found_n)], atol=1e-4)

    whole_nc, found_rate = audio.decode(path)
    assert (found_rate, len(whole_nc)) == (rate, len(expected_n))
    check(whole_nc[:, 0])
    gaps: list[Gap] = []
    blocks_n = np.concatenate([*read_blocks(path, rate, gaps)])
    assert gaps == []
    assert len(blocks_n) == len(expected_n)
    check(blocks_n)
    assert audio.check_audio(path).num_samples == len(expected_n)
    assert audio.probe(path) == (len(expected_n), rate, 1)
    for share, count in (
        (0.0, len(expected_n)),
        (0.0, 3 * rate),
        (0.4, rate),
        (0.7, rate // 3),
        (0.9, rate),
    ):
        first = int(share * len(expected_n))
        found_n = segment(path, rate, len(expected_n), first, count)
        assert len(found_n) == count
        check(found_n, first)
    assert capfd.readouterr().err == ""
    if suffix not in ("m4a", "webm"):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        check(audio.decode(path)[0][:, 0])


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 48000)])
@pytest.mark.parametrize("is_ogg", [True, False])
def test_parts_of_other_rates_become_the_firsts(
    tmp_path: Path, rates: tuple[int, int], is_ogg: bool
) -> None:
    path = tmp_path / "a"
    make = (lambda r: vorbis_or_opus("VORBIS", 0, r)) if is_ogg else (lambda r: mp3(r, q="4"))
    path.write_bytes(make(rates[0]) + make(rates[1]))
    samples_nc, rate = audio.decode(path)
    assert rate == rates[0]
    assert len(samples_nc) / rate == pytest.approx(2 * SECONDS, abs=0.05)
    first_n, second_n = samples_nc[: int(SECONDS * rate), 0], samples_nc[-int(SECONDS * rate) :, 0]
    assert np.corrcoef(first_n, second_n)[0, 1] > 0.8


def test_a_truncated_wav_after_another_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav() + wav()[:-20_000])
    with pytest.raises(AudioError, match="truncated: the header promises"):
        audio.read_audio(path)
    gaps: list[Gap] = []
    found_n = np.concatenate([*read_blocks(path, 16000, gaps)])
    assert len(found_n) == 2 * len(speechlike(16000)) - 10_000
    assert [gap.start_s for gap in gaps] == [pytest.approx(len(found_n) / 16000)]


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF"])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_what_is_missing_at_the_end_is_a_loss(tmp_path: Path, kind: str, num_parts: int) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    whole = wav(kind=kind)
    path.write_bytes((num_parts - 1) * whole + whole[: len(whole) // 2])
    with pytest.raises(AudioError, match="truncated: the header promises"):
        audio.read_audio(path)
    gaps: list[Gap] = []
    found_n = np.concatenate([*read_blocks(path, 16000, gaps)])
    assert len(found_n) == pytest.approx((num_parts - 0.5) * len(speechlike(16000)), abs=3000)
    assert [gap.start_s for gap in gaps] == [pytest.approx(len(found_n) / 16000)]
    # what lies before the end can be had
    assert len(audio.decode(path, 1.0, 2.0)[0]) == 32000


@pytest.mark.parametrize("extra", ["samples", "a second chunk"])
def test_samples_of_which_a_wav_does_not_know(tmp_path: Path, extra: str) -> None:
    path = tmp_path / "a.wav"
    content = wav()
    at = content.index(b"data") + 4
    if extra == "samples":
        path.write_bytes(with_bytes(content, at, struct.pack("<I", 32000)))
    else:
        path.write_bytes(content + content[at - 4 :])
    with pytest.raises(AudioError, match="not read"):
        audio.read_audio(path)
    gaps: list[Gap] = []
    assert [*read_blocks(path, 16000, gaps)]
    assert len(gaps) == 1


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "AU", "CAF", "W64", "RF64", "WAVEX"])
@pytest.mark.parametrize("num_samples", [1, 7, 4001])
def test_whatever_soundfile_writes_is_whole(tmp_path: Path, kind: str, num_samples: int) -> None:
    num_read = 0
    for subtype in soundfile.available_subtypes(kind):
        path = tmp_path / f"{subtype}.{kind.lower()}"
        try:
            soundfile.write(
                path, 0.3 * speechlike(16000)[:num_samples], 16000, subtype, format=kind
            )
            with soundfile.SoundFile(path) as sound:
                expected_n = sound.read(sound.frames, dtype="float32")
        except (soundfile.LibsndfileError, ValueError):
            continue  # it lists some that it does not write, or cannot seek in
        np.testing.assert_array_equal(audio.decode(path)[0][:, 0], expected_n)
        num_read += 1
    assert num_read >= 5


def test_a_file_that_changed_is_looked_through_again(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    for content in (mp3(16000, q="5"), 2 * mp3(16000, q="5")):
        path.write_bytes(content)
        num_parts = len(content) // len(mp3(16000, q="5"))
        assert audio.probe(path)[0] == num_parts * len(by_pyav(mp3(16000, q="5"))[0])


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("damage", ["page lost", "zeros", "one byte", "two holes"])
def test_ogg_with_a_hole_keeps_its_times(tmp_path: Path, subtype: str, damage: str) -> None:
    """Oracle: the undamaged file; the gap holds whatever is not as it is there."""
    path, rate = tmp_path / "a.ogg", 48000
    content = bytearray(vorbis_or_opus(subtype))
    path.write_bytes(content)
    whole_n = np.concatenate([*read_blocks(path, rate, [])])
    starts = [at for at in range(len(content)) if content[at : at + 4] == b"OggS"]
    middle = len(starts) // 2
    if damage == "page lost":
        del content[starts[middle] : starts[middle + 2]]
    elif damage == "zeros":
        content[starts[middle] + 500 : starts[middle + 1] + 900] = bytes(
            starts[middle + 1] + 400 - starts[middle]
        )
    else:
        content[starts[middle] + 700] ^= 0x40
    if damage == "two holes":
        content[starts[middle + 3] + 700] ^= 0x40
    path.write_bytes(content)
    gaps: list[Gap] = []
    found_n = np.concatenate([*read_blocks(path, rate, gaps)])
    assert len(found_n) == len(whole_n)
    assert len(gaps) == (2 if damage == "two holes" else 1)
    is_lost_n = np.zeros(len(whole_n), bool)
    for gap in gaps:
        assert gap.end_s is not None
        assert 0 < gap.end_s - gap.start_s < 5
        # decoders need a moment after it
        is_lost_n[int((gap.start_s - 0.02) * rate) : int((gap.end_s + 0.3) * rate)] = True
    assert is_lost_n.mean() < 0.4
    np.testing.assert_allclose(found_n[~is_lost_n], whole_n[~is_lost_n], atol=5e-3)
    with pytest.raises(AudioError, match="damaged"):
        audio.read_audio(path)


@pytest.mark.parametrize("xing", [0, 1])
def test_a_damaged_mp3_keeps_its_times(
    tmp_path: Path, xing: int, capfd: pytest.CaptureFixture[str]
) -> None:
    path, rate = tmp_path / "a.mp3", 44100
    content = bytearray(mp3(rate, xing=xing, b="64000"))
    path.write_bytes(content)
    whole_n = np.concatenate([*read_blocks(path, rate, [])])
    middle = len(content) // 2
    content[middle : middle + 9000] = np.random.default_rng(3).bytes(9000)
    path.write_bytes(content)
    gaps: list[Gap] = []
    found_n = np.concatenate([*read_blocks(path, rate, gaps)])
    assert abs(len(found_n) - len(whole_n)) < 0.06 * rate
    assert [gap.reason for gap in gaps] == ["damaged: bytes that are no MP3 frames"]
    after = int(((gaps[0].end_s or 0) + 0.5) * rate)
    correlation = np.correlate(found_n[after : after + 40000], whole_n[after : after + 40000])
    power = np.sum(whole_n[after : after + 40000] ** 2)
    assert correlation[0] > 0.9 * power
    with pytest.raises(AudioError, match="damaged"):
        audio.read_audio(path)
    assert capfd.readouterr().err == ""


def test_an_mp3_without_a_count_whose_bit_rate_falls(tmp_path: Path) -> None:
    """Its length, guessed by its first frames, is a third of what it is."""
    high, low = (
        encoded(
            "mp3",
            "libmp3lame",
            speechlike(44100),
            44100,
            {"b": rate},
            write_xing="0",
            id3v2_version="0",
        )
        for rate in ("320000", "32000")
    )
    (tmp_path / "a.mp3").write_bytes(high + 3 * low)
    num_samples = sum(len(by_pyav(part)[0]) for part in (high, low, low, low))
    assert audio.check_audio(tmp_path / "a.mp3").num_samples == num_samples
    assert audio.probe(tmp_path / "a.mp3") == (num_samples, 44100, 1)
    gaps: list[Gap] = []
    assert sum(map(len, read_blocks(tmp_path / "a.mp3", 44100, gaps))) == num_samples
    assert gaps == []


def test_zeros_after_an_mp3_are_no_damage(tmp_path: Path) -> None:
    content = mp3(44100, q="5")
    (tmp_path / "a.mp3").write_bytes(content)
    (tmp_path / "b.mp3").write_bytes(content + bytes(5000))
    samples_nc, _ = audio.decode(tmp_path / "a.mp3")
    np.testing.assert_array_equal(audio.decode(tmp_path / "b.mp3")[0], samples_nc)


def test_a_pipe_is_read_as_the_file(tmp_path: Path) -> None:
    pipe, rate = tmp_path / "pipe", 16000
    os.mkfifo(pipe)
    content = wav()
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    found_n = np.concatenate([*read_blocks(pipe, rate, [])])
    writer.join()
    np.testing.assert_allclose(found_n, speechlike(rate), atol=1e-4)


def test_a_wav_of_no_samples_has_none(tmp_path: Path) -> None:
    """Though chunks follow its data."""
    path = tmp_path / "a.wav"
    file = io.BytesIO()
    soundfile.write(file, np.zeros(0), 16000, format="WAV", subtype="PCM_16")
    path.write_bytes(file.getvalue() + b"LIST" + struct.pack("<I", 8) + b"INFOICMT")
    with pytest.raises(AudioError, match="zero samples"):
        audio.read_audio(path)
