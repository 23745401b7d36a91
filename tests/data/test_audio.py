"""Audio files in, one-line complaints out. Oracle: sines, whose samples are known at any rate."""

import importlib.util
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.audio import levels
from asr.data.audio import samples as audio
from asr.data.audio.blocks import read_blocks
from asr.data.audio.gaps import Gap
from asr.errors import InputError

RATE = 16000
FORMATS = [
    ("wav", "WAV", "PCM_16"),
    ("flac", "FLAC", None),
    ("ogg", "OGG", "VORBIS"),
    ("opus", "OGG", "OPUS"),
    ("mp3", "MP3", None),
]


def sine(duration_s: float = 1.0, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(duration_s * rate)) / rate)).astype("f4")


def write(path: Path, samples: np.ndarray, rate: int = RATE) -> Path:
    _, kind, subtype = next(row for row in FORMATS if row[0] == path.suffix[1:])
    soundfile.write(path, samples, rate, format=kind, subtype=subtype)
    return path


@pytest.mark.parametrize("suffix", [row[0] for row in FORMATS])
def test_every_format_gives_the_samples_back(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", sine(1.5))
    found = audio.read_audio(path)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert audio.probe(path) == (24000, RATE, 1)
    assert found.shape == (24000,)
    error = np.abs(found - sine(1.5))[1600:-1600].max()
    assert error < (1e-4 if suffix in ("wav", "flac") else 0.05)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_any_rate_and_channel_count_become_16_khz_mono(tmp_path: Path, rate: int) -> None:
    wave = sine(1.0, rate)
    # Three channels whose mean is the sine, though no channel is.
    path = write(tmp_path / "a.wav", np.stack([1.5 * wave, 0.5 * wave, wave], axis=1), rate)
    assert audio.probe(path) == (rate, rate, 3)
    found = audio.read_audio(path)
    assert abs(len(found) - RATE) <= 1
    n = min(len(found), RATE)
    assert np.abs(found[:n] - sine()[:n])[800:-800].max() < 2e-3


def test_of_opposite_channels_one_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.stack([sine(), -1.001 * sine()], axis=1))
    np.testing.assert_allclose(audio.read_audio(path), -1.001 * sine(), atol=1e-4)
    gaps: list[Gap] = []
    (found,) = read_blocks(path, RATE, gaps)
    np.testing.assert_allclose(found, -1.001 * sine(), atol=1e-4)
    assert [gap.reason for gap in gaps] == [levels.CANCELLED.format(2)]


def complaint(path: Path) -> audio.AudioError:
    with pytest.raises(InputError) as caught:
        audio.read_audio(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert isinstance(caught.value, audio.AudioError)
    return caught.value


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98, 0.999])
@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "opus"])
def test_truncated_files_are_noticed(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 40000).astype("f4")
    whole = write(tmp_path / f"a.{suffix}", noise).read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert complaint(path).reason in ("truncated audio", "unreadable audio")


def test_a_truncated_mp3_is_noticed(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mp3", sine(4.0)).read_bytes()
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    assert complaint(path).reason == "truncated audio"


def test_a_damaged_flac_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 40000))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    assert complaint(path).reason == "truncated audio"


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    assert "no such file" in str(complaint(tmp_path / "missing.flac"))
    (tmp_path / "folder.wav").mkdir()
    assert "folder" in str(complaint(tmp_path / "folder.wav"))
    (tmp_path / "empty.flac").touch()
    assert complaint(tmp_path / "empty.flac").reason == "empty audio"
    (tmp_path / "text.wav").write_text("this is no audio\n" * 100)
    assert "not an audio file" in str(complaint(tmp_path / "text.wav"))
    assert complaint(write(tmp_path / "none.wav", sine(0))).reason == "empty audio"
    with pytest.raises(InputError, match="zero samples"):
        audio.probe(tmp_path / "none.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 4999, -1])
def test_nan_and_infinite_samples(tmp_path: Path, value: float, position: int) -> None:
    samples = sine()
    samples[position] = value
    path = tmp_path / "bad.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert complaint(path).reason == "NaN or infinite samples"


def test_opposite_infinities_do_not_cancel(tmp_path: Path) -> None:
    samples = sine()
    samples[10], samples[20] = np.inf, -np.inf
    path = tmp_path / "bad.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert complaint(path).reason == "NaN or infinite samples"


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_written_to_a_pipe_is_no_truncated_one(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a.wav", sine())
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    assert len(audio.read_audio(path)) == RATE


def test_media_files_go_through_pyav(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    path = tmp_path / "a.m4a"
    wave = sine(1.0, 44100)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
        frame.rate = 44100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    found = audio.read_audio(path)
    assert abs(len(found) - RATE) < 0.1 * RATE
    strongest = np.argmax(np.abs(np.fft.rfft(found))) * RATE / len(found)
    assert strongest == pytest.approx(440, abs=2)
    assert audio.probe(path)[1:] == (44100, 2)
    path.write_bytes(path.read_bytes()[:400])
    assert complaint(path).reason == "unreadable audio"


def test_sixteen_channels_through_pyav(tmp_path: Path) -> None:
    """Planes beyond the eighth are not where PyAV looks for them."""
    av = pytest.importorskip("av", reason="PyAV not installed")
    path, layout = tmp_path / "a.mka", "hexadecagonal"
    rng = np.random.default_rng(1)
    wave_nc = rng.uniform(-0.5, 0.5, (RATE, 16)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout=layout)
        frame = av.AudioFrame.from_ndarray(wave_nc.reshape(1, -1), format="flt", layout=layout)
        frame.rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert audio.probe(path) == (RATE, RATE, 16)
    np.testing.assert_allclose(audio.read_audio(path), wave_nc.mean(1), atol=1e-6)
    gaps: list[Gap] = []
    blocks = list(read_blocks(path, RATE, gaps, channel=12))
    assert not gaps
    np.testing.assert_allclose(np.concatenate(blocks), wave_nc[:, 12], atol=1e-6)


def test_without_pyav_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "talk.m4a"
    path.write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install av" in str(complaint(path))


def test_check_audio_tells_what_probe_tells(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", np.stack([sine(), sine()], axis=1))
    info = audio.check_audio(path)
    assert (info.num_samples, info.sample_rate, info.num_channels) == audio.probe(path)


def test_samples_whose_sum_overflows_are_finite() -> None:
    samples = np.full((1, 1000), 3e38, np.float32)
    audio.check_finite(samples, "loud")
    for bad in (np.nan, np.inf, -np.inf):
        samples[0, 500] = bad
        with pytest.raises(audio.AudioError, match="loud: NaN or infinite samples"):
            audio.check_finite(samples, "loud")
