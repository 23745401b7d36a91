"""Reading in blocks: the same samples as reading at once, and gaps where reading at once refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from asr.data.audio import blocks
from asr.data.audio.blocks import read_blocks
from asr.data.audio.gaps import Gap
from asr.data.audio.samples import AudioError

RATE = 16000


def noise(duration_s: float, rate: int = RATE, channels: int = 1) -> np.ndarray:
    shape = (int(duration_s * rate), channels)
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype("f4")


def read(path: Path, channel: int | None = None) -> tuple[np.ndarray, list[Gap]]:
    gaps: list[Gap] = []
    found = list(read_blocks(path, RATE, gaps, channel))
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in found)
    return np.concatenate(found), gaps


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 96000])
def test_blocks_are_the_whole_file_resampled_at_once(tmp_path: Path, rate: int) -> None:
    """Oracle: soxr over the whole signal."""
    wave_nc = noise(23.7, rate)
    soundfile.write(tmp_path / "a.wav", wave_nc, rate, subtype="FLOAT")
    found, gaps = read(tmp_path / "a.wav")
    expected = soxr.resample(wave_nc[:, 0], rate, RATE)
    assert abs(len(found) - len(expected)) <= 1
    n = min(len(found), len(expected))
    np.testing.assert_allclose(found[:n], expected[:n], atol=1e-5)
    assert gaps == []


def test_channels_are_averaged_or_one_is_taken(tmp_path: Path) -> None:
    wave_nc = noise(1.0, channels=6)
    soundfile.write(tmp_path / "a.wav", wave_nc, RATE, subtype="FLOAT")
    np.testing.assert_allclose(read(tmp_path / "a.wav")[0], wave_nc.mean(1), atol=1e-6)
    np.testing.assert_array_equal(read(tmp_path / "a.wav", 4)[0], wave_nc[:, 4])
    with pytest.raises(AudioError, match="no channel 7: choose from 1 to 6"):
        read(tmp_path / "a.wav", 6)


def test_samples_that_are_no_numbers_become_silence_and_gaps(tmp_path: Path) -> None:
    wave_nc = noise(25.0)
    wave_nc[3200:4800] = np.nan
    wave_nc[159_000:161_000] = np.inf  # over the border of a block
    soundfile.write(tmp_path / "a.wav", wave_nc, RATE, subtype="FLOAT")
    found, gaps = read(tmp_path / "a.wav")
    np.testing.assert_array_equal(found, np.where(np.isfinite(wave_nc), wave_nc, 0)[:, 0])
    reason = blocks.BAD_SAMPLES
    assert gaps == [Gap(0.2, 0.3, reason), Gap(159_000 / RATE, 161_000 / RATE, reason)]
    soundfile.write(tmp_path / "a.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="infinite or absurd samples only"):
        read(tmp_path / "a.wav")


def test_samples_beyond_one_are_kept(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 7 * noise(0.5), RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read(tmp_path / "a.wav")[0], 7 * noise(0.5)[:, 0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_what_is_left_of_a_truncated_file_is_read_and_the_rest_a_gap(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, noise(30.0), RATE)
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, gaps = read(path)
    assert 10 * RATE <= len(found) <= 16 * RATE
    np.testing.assert_allclose(found[: 9 * RATE], whole[: 9 * RATE], atol=1e-4)
    assert len(gaps) == 1
    assert gaps[0].start_s == pytest.approx(len(found) / RATE, abs=0.1)
    assert "truncated" in gaps[0].reason or "damaged" in gaps[0].reason


def test_all_before_damage_is_read(tmp_path: Path) -> None:
    path, wave_nc = tmp_path / "a.flac", noise(11.0)
    soundfile.write(path, wave_nc, RATE)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(content[-90000:-89000], b"")):
        path.write_bytes(damaged)
        found, gaps = read(path)
        share = 0.5 if len(damaged) < 0.6 * len(content) else 1 - 90000 / len(content)
        assert share * 11.0 - 0.6 < len(found) / RATE < share * 11.0 + 0.2
        np.testing.assert_allclose(found, wave_nc[: len(found), 0], atol=1e-4)
        assert [(gap.start_s, gap.end_s) for gap in gaps] == [(len(found) / RATE, 11.0)]


def test_a_flac_that_does_not_tell_its_length(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(3.0), RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    found, gaps = read(path)
    np.testing.assert_allclose(found, noise(3.0)[:, 0], atol=1e-4)
    assert gaps == []


def write_media(
    path: Path, codec: str, wave_n: np.ndarray, rate: int, video_s: int = 0, at_once: bool = False
) -> None:
    av = pytest.importorskip("av", reason="PyAV not installed")
    options = {"movflags": "faststart"} if at_once else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("mpeg4", rate=5) if video_s else None
        stream = container.add_stream(codec, rate=rate, layout="mono")
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.format, "mono", rate, size)
        if video is not None:
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
            picture = np.zeros((32, 32, 3), np.uint8)
            for number in range(5 * video_s):
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts = number
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(wave_n[None], format="flt", layout="mono")
        sound.rate = rate
        for frame in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


MEDIA = [
    ("m4a", "aac", 44100),
    ("m4a", "aac", 8000),
    ("mp4", "aac", 16000),
    ("mkv", "aac", 16000),
    ("webm", "libopus", 48000),
    ("mka", "libmp3lame", 44100),
    ("mkv", "pcm_s16le", 48000),
    ("avi", "mp2", 48000),
    ("flv", "aac", 44100),
    ("ts", "aac", 16000),
    ("aac", "aac", 16000),
    ("ac3", "ac3", 48000),
]


@pytest.mark.parametrize(("suffix", "codec", "rate"), MEDIA)
@pytest.mark.parametrize("duration_s", [0.3, 4.0])
def test_a_whole_file_of_any_container_has_no_gap(
    tmp_path: Path, suffix: str, codec: str, rate: int, duration_s: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    write_media(path, codec, noise(duration_s, rate)[:, 0], rate)
    found, gaps = read(path)
    assert gaps == []
    assert len(found) / RATE == pytest.approx(duration_s, abs=0.3)  # encoders pad


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_a_video_that_outlasts_its_sound_has_no_gap(tmp_path: Path, suffix: str) -> None:
    write_media(tmp_path / f"a.{suffix}", "aac", noise(2.0)[:, 0], RATE, video_s=6)
    found, gaps = read(tmp_path / f"a.{suffix}")
    assert gaps == []
    assert len(found) / RATE == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate"), [row for row in MEDIA if row[0] in ("webm", "mkv", "mka", "m4a")]
)
def test_a_truncated_container_is_told(tmp_path: Path, suffix: str, codec: str, rate: int) -> None:
    path = tmp_path / f"a.{suffix}"
    write_media(path, codec, noise(6.0, rate)[:, 0], rate, at_once=suffix == "m4a")
    whole, _ = read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, gaps = read(path)
    assert 2 * RATE <= len(found) <= 4 * RATE
    np.testing.assert_allclose(found[: 2 * RATE], whole[: 2 * RATE], atol=1e-4)
    assert len(gaps) == 1
    assert gaps[0].start_s == pytest.approx(len(found) / RATE, abs=0.01)
    assert gaps[0].end_s == pytest.approx(6.0, abs=0.3)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "pcm_s16le"), ("m4a", "aac"), ("ts", "aac")])
def test_what_follows_damage_keeps_its_time(tmp_path: Path, suffix: str, codec: str) -> None:
    """Oracle: the undamaged file. The gap holds whatever is not as it is there."""
    path = tmp_path / f"a.{suffix}"
    write_media(path, codec, noise(20.0)[:, 0], RATE)
    whole, _ = read(path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(1).bytes(2000)
    path.write_bytes(content)
    found, gaps = read(path)
    assert abs(len(found) - len(whole)) < 0.01 * RATE
    assert gaps
    assert all(8 < gap.start_s < 11 for gap in gaps)
    last_s = gaps[-1].end_s
    assert last_s is not None
    assert last_s < 16
    after = int((last_s + 0.2) * RATE)
    assert np.abs(found[after:-RATE] - whole[after : len(found) - RATE]).max() < 0.01
    assert not found[
        int((gaps[0].start_s + 0.01) * RATE) : int((gaps[0].end_s - 0.01) * RATE)
    ].any()


def test_a_video_is_read_through_pyav_in_blocks(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    wave_nc = noise(21.0, 48000)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=48000, layout="mono")
        for second_nc in np.split((wave_nc * 32767).astype(np.int16), 21):
            pcm = np.ascontiguousarray(second_nc.T)
            frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
            frame.rate = 48000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    gaps: list[Gap] = []
    found = list(read_blocks(tmp_path / "a.mkv", 48000, gaps))
    assert len(found) >= 2
    np.testing.assert_allclose(np.concatenate(found), wave_nc[:, 0], atol=1e-4)
    assert gaps == []


def test_what_is_no_audio_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(AudioError, match="no such file"):
        read(path)
    for content in (b"", b"these are words, not sound"):
        path.write_bytes(content)
        with pytest.raises(AudioError, match=r"a\.wav"):
            read(path)
    soundfile.write(path, np.zeros(0), RATE)
    with pytest.raises(AudioError, match="no audio"):
        read(path)


def test_a_rate_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(AudioError, match="1 samples per second"):
        list(blocks.convert([noise(1.0)], 1, RATE, []))
