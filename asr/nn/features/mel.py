"""Mel banks (k, f): what each frequency bin k of a power spectrum gives to each mel bin f."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import InputError

# Slaney's scale: 15 mel at 1 kHz, above it 27 mel for a factor of 6.4.
_SLANEY_KNEE = 15.0
_SLANEY_STEP = math.log(6.4) / 27.0


def mel_bank(config: FeatureConfig, fft_size: int) -> Tensor:
    """Kaldi's triangles, linear in mel = 1127 ln(1 + hz / 700), as (fft_size / 2 + 1, num_mels).

    Raises:
        InputError: edges out of order, or bins so narrow that one of them sees no frequency.
    """
    nyquist_hz = config.sample_rate / 2
    high_hz = config.high_hz if config.high_hz > 0 else nyquist_hz + config.high_hz
    if not 0 <= config.low_hz < high_hz <= nyquist_hz:
        raise InputError(
            f"features.low_hz = {config.low_hz:g}, features.high_hz = {config.high_hz:g}: need "
            f"0 <= low < high <= {nyquist_hz:g} (high counts from there when it is not positive)"
        )
    hz_k = torch.arange(fft_size // 2 + 1, dtype=torch.float64) * (config.sample_rate / fft_size)
    mel_k1 = (1127.0 * torch.log1p(hz_k / 700.0)).unsqueeze(1)
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (config.low_hz, high_hz))
    edges = torch.linspace(low, high, config.num_mels + 2, dtype=torch.float64)
    rising_kf = (mel_k1 - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling_kf = (edges[2:] - mel_k1) / (edges[2:] - edges[1:-1])
    mel_kf = torch.minimum(rising_kf, falling_kf).clamp(min=0.0)
    # The Nyquist bin never counts in Kaldi.
    mel_kf[-1] = 0.0
    _check_covered(mel_kf, f"frames of {config.frame_ms:g} ms")
    return mel_kf.float()


def slaney_bank(num_mels: int, fft_size: int, sample_rate: int) -> Tensor:
    """Slaney's triangles of equal area up to the Nyquist frequency, as (fft_size / 2 + 1, num_mels).

    Linear in Hz, on a mel scale that is linear below 1 kHz and logarithmic above (Slaney 1998, Auditory
    Toolbox): what librosa computes by default.

    Raises:
        InputError: bins so narrow that one of them sees no frequency.
    """
    hz_k1 = torch.arange(fft_size // 2 + 1, dtype=torch.float64)[:, None] * (sample_rate / fft_size)
    highest = _SLANEY_KNEE + math.log(sample_rate / 2 / 1000.0) / _SLANEY_STEP
    mels = torch.linspace(0.0, highest, num_mels + 2, dtype=torch.float64)
    above_hz = 1000.0 * torch.exp((mels - _SLANEY_KNEE) * _SLANEY_STEP)
    edges_hz = torch.where(mels < _SLANEY_KNEE, mels * (1000.0 / _SLANEY_KNEE), above_hz)
    low_hz, centre_hz, high_hz = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising_kf = (hz_k1 - low_hz) / (centre_hz - low_hz)
    falling_kf = (high_hz - hz_k1) / (high_hz - centre_hz)
    mel_kf = torch.minimum(rising_kf, falling_kf).clamp(min=0.0) * (2.0 / (high_hz - low_hz))
    _check_covered(mel_kf, f"a spectrum of {fft_size // 2 + 1} frequencies")
    return mel_kf.float()


def _check_covered(mel_kf: Tensor, spectrum: str) -> None:
    """Raise InputError where a mel bin covers no frequency."""
    if bool((mel_kf.sum(0) == 0).any()):
        raise InputError(
            f"features.num_mels = {mel_kf.shape[1]}: too many for {spectrum}; some mel bin covers no "
            "frequency"
        )
