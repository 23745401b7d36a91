"""Mel banks (k, f): what each frequency bin k of a power spectrum gives to each mel bin f."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from asr.config import FeatureConfig
from asr.errors import InputError


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
    if bool((mel_kf.sum(0) == 0).any()):
        raise InputError(
            f"features.num_mels = {config.num_mels}: too many for frames of "
            f"{config.frame_ms:g} ms; some mel bin covers no frequency"
        )
    return mel_kf.float()
