"""Arrays whose axes, types and scales are not those expected: converted with a note, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr.api import Transcriber
from asr.data.audio.blocks import BAD_SAMPLES, convert, read_blocks
from asr.data.audio.gaps import Gap, Remark
from asr.data.audio.samples import read_audio
from asr.errors import InputError
from asr.transcribe.live import Axes
from asr.transcribe.sources import array_source

RATE = 16000


def wave(duration_s: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.uniform(-0.4, 0.4, int(duration_s * RATE)).astype(np.float32)


def opened(samples: np.ndarray) -> tuple[np.ndarray, list[str]]:
    gaps: list[Gap] = []
    blocks = array_source(np.atleast_2d(samples), RATE, None).open(RATE, gaps)
    found_n = np.concatenate([*blocks])
    assert all(isinstance(gap, Remark) for gap in gaps)
    return found_n, [gap.reason for gap in gaps]


@pytest.mark.parametrize("kind", ["i1", "i2", "i4"])
def test_integers_are_scaled_by_their_type(kind: str) -> None:
    scale = float(2 ** (8 * np.dtype(kind).itemsize - 1))
    found_n, notes = opened((wave() * scale).astype(kind))
    np.testing.assert_allclose(found_n, wave(), atol=1.5 / scale + 1e-6)
    assert notes == []


@pytest.mark.parametrize(
    ("kind", "bits"), [("i4", 16), (">i4", 16), ("i4", 24), ("i8", 16), ("i8", 24), (">i8", 32)]
)
def test_integers_of_a_narrower_scale_than_their_type(kind: str, bits: int) -> None:
    samples = (wave().astype(float) * 2 ** (bits - 1)).astype(kind)
    found_n, notes = opened(samples)
    np.testing.assert_allclose(found_n, wave(), atol=1e-4)
    assert notes == [f"samples up to {np.abs(samples).max()}: taken as those of {bits} bits"]


@pytest.mark.parametrize("bits", [16, 24, 32])
@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_floats_of_integers_scale(kind: str, bits: int) -> None:
    found_n, notes = opened((2 ** (bits - 1) * wave()).astype(kind))
    np.testing.assert_allclose(found_n, wave(), atol=1e-5)
    assert len(notes) == 1
    assert f"{bits} bits" in notes[0]


@pytest.mark.parametrize("peak", [9.0, 40.0, 120.0])
def test_loud_floats_are_of_no_integers_scale(peak: float) -> None:
    found_n, _ = opened(wave() * np.float32(peak / 0.4))
    np.testing.assert_allclose(found_n, wave() * (peak / 0.4), rtol=1e-5)
    # as far below full scale whole numbers are those of 16 bits
    whole_n = np.rint(wave() * (peak / 0.4)).astype(np.float32)
    found_n, notes = opened(whole_n)
    np.testing.assert_allclose(found_n, whole_n / 32768, rtol=1e-5)
    assert "16 bits" in notes[0]


def test_no_channel_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(0, 2\): no channel"):
        array_source(np.zeros((0, 2), np.float32), RATE, None)


def test_absurd_samples_among_those_of_integers_scale() -> None:
    samples = 2**23 * wave()
    samples[[50, 60]] = [1e30, np.nan]
    gaps: list[Gap] = []
    found_n = np.concatenate([*convert([samples[:, None]], RATE, RATE, gaps)])
    expected_n = wave()
    expected_n[[50, 60]] = 0
    np.testing.assert_allclose(found_n, expected_n, atol=1e-5)
    assert [gap.reason for gap in gaps if not isinstance(gap, Remark)] == [BAD_SAMPLES]


def test_training_and_transcription_take_floats_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, 32768 * wave(), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), wave(), atol=1e-5)
    np.testing.assert_allclose(np.concatenate([*read_blocks(path, RATE, [])]), wave(), atol=1e-5)


def test_a_stream_keeps_its_number_of_channels() -> None:
    axes = Axes(None)
    axes.sorted(wave())
    with pytest.raises(InputError, match="shape"):
        axes.sorted(np.zeros((2, 1000), np.float32))


def test_a_click_is_no_scale() -> None:
    samples = wave()
    samples[100] = 900.0
    found_n, notes = opened(samples)
    np.testing.assert_array_equal(found_n, samples)
    assert notes == []


def test_very_quiet_sound_is_told() -> None:
    _, notes = opened(0.004 * wave())
    assert len(notes) == 1
    assert "very quiet" in notes[0]
    assert opened(np.zeros(RATE, np.float32))[1] == []
    assert opened(0.1 * wave())[1] == []


@pytest.mark.parametrize("block", [7, 1600, 32000])
def test_opposite_channels_do_not_cancel(block: int) -> None:
    stereo_nc = np.stack([wave(), -wave()], 1)
    gaps: list[Gap] = []
    blocks = np.split(stereo_nc, range(block, len(stereo_nc), block))
    found_n = np.concatenate([*convert(blocks, RATE, RATE, gaps)])
    np.testing.assert_array_equal(np.abs(found_n), np.abs(wave()))
    assert len(gaps) == 1
    gaps.clear()
    halves_nc = np.stack([wave(), 0.2 * wave()[::-1]], 1)
    found_n = np.concatenate([*convert([halves_nc], RATE, RATE, gaps)])
    np.testing.assert_allclose(found_n, halves_nc.mean(1), atol=1e-6)
    assert gaps == []


@pytest.mark.parametrize("speaks", [0, 1])
def test_channels_that_cancelled_while_nobody_spoke(speaks: int) -> None:
    rng = np.random.default_rng(0)
    noise_n = 2e-4 * rng.standard_normal(10 * RATE).astype(np.float32)
    speech_nc = np.zeros((10 * RATE, 2), np.float32)
    speech_nc[:, speaks] = 0.1 * rng.standard_normal(10 * RATE)
    blocks = [np.stack([noise_n, -noise_n], 1), *np.split(speech_nc, 10)]
    gaps: list[Gap] = []
    found_n = np.concatenate([*convert(blocks, RATE, RATE, gaps)])
    loudness = float(np.sqrt(np.mean(np.square(found_n[-5 * RATE :]))))
    assert 0.04 < loudness < 0.11  # the channel itself, or the mean of both
    assert "the channels cancel one another" in gaps[0].reason
    assert len(gaps) == (1 if speaks == 0 else 2)


@pytest.mark.parametrize("num_channels", [None, 2])
@pytest.mark.parametrize("is_samples_first", [True, False])
def test_blocks_of_either_order(num_channels: int | None, is_samples_first: bool) -> None:
    axes = Axes(num_channels)
    stereo_cn = np.arange(400.0).reshape(2, 200)
    for first, end in ((0, 0), (0, 100), (100, 102), (102, 103), (103, 200)):
        part_cn = stereo_cn[:, first:end]
        found_cn = axes.sorted(part_cn.T if is_samples_first else part_cn)
        assert found_cn.shape == (2, end - first) or first == end
        np.testing.assert_array_equal(found_cn[:2], part_cn[: len(found_cn)])


def test_blocks_that_do_not_tell_or_change_are_refused() -> None:
    for shape in ((2, 5), (5, 2), (2, 2), (1, 3), (3, 1)):
        with pytest.raises(InputError, match="num_channels"):
            Axes(None).sorted(np.zeros(shape))
    axes = Axes(None)
    axes.sorted(np.zeros((160, 1)))
    for shape in ((2, 160), (160, 2)):
        with pytest.raises(InputError, match="expected"):
            axes.sorted(np.zeros(shape))
    with pytest.raises(InputError, match=r"expected \(2, n\) or \(n, 2\)"):
        Axes(2).sorted(np.zeros(160))


def test_a_stream_reads_what_sounddevice_gives(transcriber: Transcriber) -> None:
    texts = []
    for shape in (lambda n: n, lambda n: n[:, None], lambda n: np.stack([n, n], 1)):
        stream = transcriber.stream()
        results = [one for part in np.split(wave(4.0), 40) for one in stream.feed(shape(part))]
        results += stream.finish()
        texts.append([one.segment.text for one in results if one.is_final])
        assert stream.duration_s == 4.0
    assert texts[0] == texts[1] == texts[2]
    with pytest.raises(InputError, match="int64"):
        transcriber.stream().feed(np.zeros(100, np.int64))
    for no_array in ([0.0] * 100, torch.zeros(100)):
        with pytest.raises(InputError, match=r"feed\((list|Tensor)\): expected a NumPy array"):
            transcriber.stream().feed(no_array)  # type: ignore[arg-type]
    for again in (stream.finish, lambda: stream.feed(wave())):
        with pytest.raises(InputError, match="the stream has ended"):
            again()
    for rate in (16000.5, float("nan"), "16000"):
        with pytest.raises(InputError, match="must be a whole number per second"):
            transcriber.stream(sample_rate=rate)  # type: ignore[arg-type]
