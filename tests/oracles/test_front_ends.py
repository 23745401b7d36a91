"""Front ends against the feature extractors of Hugging Face transformers, and the mel bank against
torchaudio's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.nn.features.mel import slaney_bank
from asr.nn.features.table import build_front_end, build_norm

pytest.importorskip("transformers", reason="transformers is not installed (Python 3.11 or newer)")

from transformers import ParakeetFeatureExtractor, WhisperFeatureExtractor

RATE = 16000
# The largest difference seen is 1.5e-5, in mel bins a million times quieter than others.
TOLERANCE = 3e-5


def speechlike(num_samples: int, seed: int = 0) -> Tensor:
    """Harmonics with a moving pitch over noise, loud at first and quiet afterwards."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(num_samples) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 1.3 * time_s)) / RATE
    wave = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.1
    wave = wave * np.where(2 * time_s <= num_samples / RATE, 1.0, 0.02)
    return torch.from_numpy(wave + 1e-3 * rng.standard_normal(num_samples)).float()


def ours(config: FeatureConfig, waves: Sequence[Tensor], extra: int = 77) -> list[Tensor]:
    """Normalised features of each utterance of a batch, with NaN in the padding."""
    wave_bn = torch.nn.utils.rnn.pad_sequence(list(waves), True, float("nan"))
    wave_bn = torch.nn.functional.pad(wave_bn, (0, extra), value=float("nan"))
    lens_b = torch.tensor([len(wave_n) for wave_n in waves])
    feats_btf, feat_lens_b = build_front_end(config)(wave_bn, lens_b)
    feats_btf = build_norm(config)(feats_btf, feat_lens_b)
    for row_tf, length in zip(feats_btf, feat_lens_b.tolist(), strict=True):
        assert bool((row_tf[length:] == 0).all())
    return [row_tf[:n] for row_tf, n in zip(feats_btf, feat_lens_b.tolist(), strict=True)]


@pytest.mark.parametrize("fft_size", [400, 512])
@pytest.mark.parametrize("num_mels", [20, 80, 128])
def test_slaneys_bank_is_torchaudios(num_mels: int, fft_size: int) -> None:
    functional = pytest.importorskip("torchaudio").functional
    expected_kf = functional.melscale_fbanks(
        fft_size // 2 + 1, 0.0, RATE / 2, num_mels, RATE, norm="slaney", mel_scale="slaney"
    )
    # theirs is computed in float32
    found_kf = slaney_bank(num_mels, fft_size, RATE)
    torch.testing.assert_close(found_kf, expected_kf, rtol=0, atol=1e-6)


LENGTHS = (160, 161, 199, 200, 201, 399, 400, 401, 1000, 16000, 40321)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_whispers_features_of_an_utterance_are_transformers(num_mels: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=num_mels)
    waves = [speechlike(length, seed) for seed, length in enumerate(LENGTHS)]
    found = ours(FeatureConfig(kind="whisper", num_mels=num_mels), waves)
    for wave_n, found_tf in zip(waves, found, strict=True):
        # by NumPy, whose padding mirrors again and again where a sound is shorter than half a window
        expected = theirs._np_extract_fbank_features(wave_n.numpy()[None], "cpu")[0].T
        assert len(found_tf) == len(wave_n) // 160
        np.testing.assert_allclose(found_tf.numpy(), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_whispers_features_of_30_s_are_transformers(num_mels: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=num_mels)
    waves = [speechlike(length, length) for length in (0, 1, 300, 5 * RATE + 11, 30 * RATE)]
    waves.append(0.1 * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0)))
    found = ours(FeatureConfig(kind="whisper", num_mels=num_mels, pad_s=30.0), waves)
    expected = theirs([wave_n.numpy() for wave_n in waves], sampling_rate=RATE)["input_features"]
    for found_tf, expected_ft in zip(found, expected, strict=True):
        assert len(found_tf) == 3000
        np.testing.assert_allclose(found_tf.numpy(), expected_ft.T, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_nemos_features_are_transformers(num_mels: int) -> None:
    theirs = ParakeetFeatureExtractor(feature_size=num_mels)
    # of one frame transformers' deviation is NaN
    waves = [speechlike(length, seed) for seed, length in enumerate((320, 321, 479, *LENGTHS[7:]))]
    waves.append(0.1 * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0)))
    found = ours(FeatureConfig(kind="nemo", num_mels=num_mels), waves)
    batch = theirs([wave_n.numpy() for wave_n in waves], sampling_rate=RATE, return_tensors="pt")
    lens = batch["attention_mask"].sum(1).tolist()
    for found_tf, expected_tf, length in zip(found, batch["input_features"], lens, strict=True):
        assert len(found_tf) == length
        # both are up to 1e-4 from float64 where a bin is millions of times quieter than others
        torch.testing.assert_close(found_tf, expected_tf[:length], rtol=0, atol=3e-4)
        assert float((found_tf - expected_tf[:length]).abs().mean()) < 5e-6
