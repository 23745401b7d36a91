"""Oracles: torchaudio's Kaldi port (in float64) and kaldi-native-fbank; invariants for the rest."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import InputError
from asr.nn.features.base import FRAMES_AT_ONCE_CPU
from asr.nn.features.kaldi import Fbank, povey_window
from asr.nn.features.mel import mel_bank
from asr.nn.features.norm import GlobalNorm, estimate_norm

LENGTHS = (400, 401, 559, 560, 561, 1000, 16000, 40321)


def speechlike(num_samples: int, seed: int = 0, rate: int = 16000) -> Tensor:
    """Harmonics with a moving pitch, noise, a loud and a quiet half, a constant offset."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / rate
    pitch_hz = 120 + 30 * np.sin(2 * np.pi * 1.3 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1
    wave = wave * np.where(time_s < time_s.mean(), 1.0, 0.02)
    wave = wave + 1e-3 * rng.standard_normal(num_samples) + 0.01
    return torch.from_numpy(wave).float().clamp(-1, 1)


def alone(fbank: Fbank, wave_n: Tensor) -> Tensor:
    feats_btf, lens_b = fbank(wave_n[None], torch.tensor([len(wave_n)]))
    assert feats_btf.shape[1] == lens_b.item()
    return feats_btf[0]


def torchaudio_fbank(wave_n: Tensor, config: FeatureConfig) -> Tensor:
    from torchaudio.compliance import kaldi

    return kaldi.fbank(
        wave_n.double()[None] * config.scale,
        num_mel_bins=config.num_mels,
        sample_frequency=config.sample_rate,
        frame_length=config.frame_ms,
        frame_shift=config.hop_ms,
        low_freq=config.low_hz,
        high_freq=config.high_hz,
        snip_edges=config.snip_edges,
        dither=0.0,
    )


def native_fbank(wave_n: Tensor, config: FeatureConfig) -> Tensor:
    knf = pytest.importorskip("kaldi_native_fbank")
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = config.sample_rate
    options.frame_opts.frame_length_ms = config.frame_ms
    options.frame_opts.frame_shift_ms = config.hop_ms
    options.frame_opts.snip_edges = config.snip_edges
    options.frame_opts.dither = 0
    options.mel_opts.num_bins = config.num_mels
    options.mel_opts.low_freq = config.low_hz
    options.mel_opts.high_freq = config.high_hz
    extractor = knf.OnlineFbank(options)
    extractor.accept_waveform(config.sample_rate, (wave_n * config.scale).tolist())
    extractor.input_finished()
    frames = [extractor.get_frame(index) for index in range(extractor.num_frames_ready)]
    return torch.from_numpy(np.array(frames, dtype=np.float32).reshape(-1, config.num_mels))


CONFIGS = {
    "default": FeatureConfig(),
    "centred": FeatureConfig(snip_edges=False),
    "unit scale": FeatureConfig(scale=1.0),
    "icefall": FeatureConfig(snip_edges=False, scale=1.0, high_hz=-400.0),
    "8 kHz": FeatureConfig(sample_rate=8000, num_mels=40, low_hz=60.0, high_hz=3800.0),
    "32 ms": FeatureConfig(frame_ms=32.0, hop_ms=8.0, num_mels=64, snip_edges=False),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_equals_torchaudio_and_kaldi(name: str, num_samples: int) -> None:
    config = CONFIGS[name]
    wave_n = speechlike(max(num_samples, int(config.sample_rate * config.frame_ms / 1000)))
    ours = alone(Fbank(config), wave_n)
    for oracle in (torchaudio_fbank, native_fbank):
        expected = oracle(wave_n, config)
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours, expected.float(), rtol=0, atol=1e-3)


def test_long_audio_in_pieces_equals_torchaudio() -> None:
    wave_n = speechlike(FRAMES_AT_ONCE_CPU * 160 + 5000)
    config = FeatureConfig(num_mels=20)
    expected = torchaudio_fbank(wave_n, config).float()
    ours = alone(Fbank(config), wave_n)
    assert len(ours) > FRAMES_AT_ONCE_CPU
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)


def test_gradients_reach_the_waveform() -> None:
    fbank = Fbank(FeatureConfig(num_mels=16))
    wave_n = speechlike(1200).requires_grad_()
    weights = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(1200, generator=torch.Generator().manual_seed(1))
    (alone(fbank, wave_n) * weights).sum().backward()
    assert wave_n.grad is not None
    step = 1e-4 * direction
    with torch.no_grad():
        above = (alone(fbank, wave_n + step).double() * weights).sum()
        below = (alone(fbank, wave_n - step).double() * weights).sum()
    expected = float(above - below) / 2
    assert float((wave_n.grad * step).sum()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("num_samples", [1, 79, 80, 100, 160, 240, 399])
def test_centred_frames_of_less_than_a_window_equal_kaldi(num_samples: int) -> None:
    config = CONFIGS["centred"]
    wave_n = speechlike(num_samples)
    expected = native_fbank(wave_n, config)
    torch.testing.assert_close(alone(Fbank(config), wave_n), expected, rtol=0, atol=1e-3)


def test_noise_and_full_scale_square_wave() -> None:
    generator = torch.Generator().manual_seed(1)
    noise_n = torch.randn(8000, generator=generator).mul(0.1).clamp(-1, 1)
    square_n = torch.sign(torch.sin(torch.arange(8000) * 0.05))
    for wave_n in (noise_n, square_n):
        ours = alone(Fbank(FeatureConfig()), wave_n)
        for oracle in (torchaudio_fbank, native_fbank):
            expected = oracle(wave_n, FeatureConfig()).float()
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("snip_edges", [True, False])
@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=5), extra=st.integers(0, 700))
@settings(max_examples=25, deadline=None)
def test_alone_padded_or_in_a_batch_is_the_same(
    snip_edges: bool, lengths: list[int], extra: int
) -> None:
    fbank = Fbank(FeatureConfig(snip_edges=snip_edges))
    waves = [speechlike(length, seed) for seed, length in enumerate(lengths)]
    # What lies in the padding is not looked at, be it NaN.
    wave_bn = torch.full((len(waves), max(lengths) + extra), math.nan)
    for row, wave_n in zip(wave_bn, waves, strict=True):
        row[: len(wave_n)] = wave_n
    feats_btf, lens_b = fbank(wave_bn, torch.tensor(lengths))
    assert feats_btf.shape[1] == fbank.num_frames(max(lengths) + extra)
    for feats_tf, num_frames, wave_n in zip(feats_btf, lens_b.tolist(), waves, strict=True):
        expected = alone(fbank, wave_n)
        assert num_frames == len(expected) == fbank.num_frames(len(wave_n))
        torch.testing.assert_close(feats_tf[:num_frames], expected, rtol=0, atol=1e-5)
        assert (feats_tf[num_frames:] == 0).all()


@pytest.mark.parametrize("snip_edges", [True, False])
def test_num_frames_counts_windows(snip_edges: bool) -> None:
    fbank = Fbank(FeatureConfig(snip_edges=snip_edges))
    lengths = [*range(0, 1300, 7), 399, 400, 401, 559, 560, 561]
    for length in lengths:
        if snip_edges:
            starts = [start for start in range(0, length, 160) if start + 400 <= length]
            expected = len(starts)
        else:
            expected = math.floor(length / 160 + 0.5)
        assert fbank.num_frames(length) == expected, length
    counts_b = fbank.num_frames(torch.tensor(lengths))
    assert counts_b.tolist() == [fbank.num_frames(length) for length in lengths]


def test_shorter_than_a_window_gives_no_frames() -> None:
    fbank = Fbank(FeatureConfig())
    feats_btf, lens_b = fbank(torch.zeros(2, 399), torch.tensor([399, 0]))
    assert feats_btf.shape == (2, 0, 80)
    assert lens_b.tolist() == [0, 0]
    feats_btf, lens_b = fbank(torch.zeros(2, 1000), torch.tensor([399, 1000]))
    assert lens_b.tolist() == [0, 4]
    assert (feats_btf[0] == 0).all()
    for snip_edges in (True, False):
        empty, _ = Fbank(FeatureConfig(snip_edges=snip_edges))(
            torch.zeros(1, 0), torch.zeros(1).long()
        )
        assert empty.shape == (1, 0, 80)


def test_silence_is_the_floor() -> None:
    for snip_edges in (True, False):
        feats = alone(Fbank(FeatureConfig(snip_edges=snip_edges)), torch.zeros(4000))
        floor = math.log(np.finfo(np.float32).eps)
        torch.testing.assert_close(feats, torch.full_like(feats, floor), rtol=0, atol=1e-4)


def test_scale_shifts_the_logarithm() -> None:
    wave_n = speechlike(8000)
    loud = alone(Fbank(FeatureConfig()), wave_n)
    quiet = alone(Fbank(FeatureConfig(scale=3276.8)), wave_n)
    expected = torch.full_like(loud, 2 * math.log(10))
    torch.testing.assert_close(loud - quiet, expected, rtol=0, atol=1e-3)


def test_a_constant_offset_changes_nothing() -> None:
    fbank = Fbank(FeatureConfig())
    wave_n = speechlike(8000)
    torch.testing.assert_close(alone(fbank, wave_n + 0.1), alone(fbank, wave_n), rtol=0, atol=1e-2)


def test_features_stay_float32_under_autocast() -> None:
    fbank = Fbank(FeatureConfig())
    wave_n = speechlike(4000)
    expected = alone(fbank, wave_n)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        feats = alone(fbank, wave_n)
    assert feats.dtype == torch.float32
    assert torch.equal(feats, expected)


def test_nothing_is_saved_and_nothing_learnt() -> None:
    fbank = Fbank(FeatureConfig())
    assert fbank.state_dict() == {}
    assert list(fbank.parameters()) == []


def test_window_and_mel_bank_by_hand() -> None:
    window_w = povey_window(5)
    torch.testing.assert_close(window_w, torch.tensor([0, 0.5**0.85, 1, 0.5**0.85, 0]))
    bank_kf = mel_bank(FeatureConfig(num_mels=8), 512)
    assert bank_kf.shape == (257, 8)
    assert (bank_kf[-1] == 0).all()
    # Between the first and the last centre the triangles of a bin sum to 1.
    centres = bank_kf.argmax(0)
    inner = bank_kf[centres[0] + 1 : centres[-1]].sum(1)
    torch.testing.assert_close(inner, torch.ones_like(inner))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FeatureConfig(high_hz=9000.0), "high_hz = 9000"),
        (FeatureConfig(low_hz=8000.0), "low_hz = 8000"),
        (FeatureConfig(high_hz=-8000.0), "high_hz = -8000"),
        (FeatureConfig(num_mels=300), "num_mels = 300: too many"),
        (FeatureConfig(hop_ms=0.01), "hop_ms = 0.01"),
    ],
)
def test_impossible_options_are_refused(config: FeatureConfig, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Fbank(config)


def test_estimate_norm_sees_valid_frames_only() -> None:
    generator = torch.Generator().manual_seed(0)
    lens = [[3, 7], [5], [1, 2, 9]]
    batches = []
    valid = []
    for group in lens:
        feats_btf = torch.randn(len(group), 10, 4, generator=generator) * 3 + 15
        for feats_tf, length in zip(feats_btf, group, strict=True):
            valid.append(feats_tf[:length])
            feats_tf[length:] = math.nan
        batches.append((feats_btf, torch.tensor(group)))
    mean_f, std_f = estimate_norm(batches)
    frames = torch.cat(valid).double()
    torch.testing.assert_close(mean_f, frames.mean(0).float())
    torch.testing.assert_close(std_f, frames.std(0, correction=0).float())
    again_mean_f, again_std_f = estimate_norm(iter(batches))
    assert torch.equal(mean_f, again_mean_f)
    assert torch.equal(std_f, again_std_f)


def test_global_norm_standardises_and_keeps_padding_zero() -> None:
    feats_btf = torch.randn(3, 8, 4) * torch.tensor([1.0, 2.0, 5.0, 0.0]) + 7
    lens_b = torch.tensor([8, 2, 5])
    norm = GlobalNorm(4)
    norm.set_statistics(*estimate_norm([(feats_btf, lens_b)]))
    normed_btf = norm(feats_btf, lens_b)
    valid = torch.cat([row[:length] for row, length in zip(normed_btf, lens_b, strict=True)])
    torch.testing.assert_close(valid.mean(0), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(valid.std(0, correction=0), torch.tensor([1.0, 1, 1, 0]))
    for row, length in zip(normed_btf, lens_b, strict=True):
        assert (row[length:] == 0).all()
    assert set(norm.state_dict()) == {"mean_f", "inv_std_f"}
    copy = GlobalNorm(4)
    copy.load_state_dict(norm.state_dict())
    assert torch.equal(copy(feats_btf, lens_b), normed_btf)


def test_no_audio_to_estimate_from() -> None:
    with pytest.raises(InputError, match="no audio"):
        estimate_norm([])
    with pytest.raises(InputError, match="no audio"):
        estimate_norm([(torch.zeros(1, 0, 4), torch.tensor([0]))])
