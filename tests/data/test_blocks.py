"""Reading in blocks: the same samples as reading at once, and gaps where reading at once refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from asr.data import blocks
from asr.data.audio import AudioError
from asr.data.blocks import Gap, read_blocks

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
