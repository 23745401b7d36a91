"""NeMo's log-mel features, as its FastConformer models (Parakeet, Canary) were trained with.

Shapes: b utterance, n sample, t frame, w sample within a window, k frequency bin, f mel bin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.config import FeatureConfig
from asr.nn.features.base import Count, FrontEnd, in_pieces, power_spectrum
from asr.nn.features.mel import slaney_bank
from asr.nn.features.norm import UtteranceNorm

WINDOW, HOP, FFT = 400, 160, 512
PREEMPHASIS = 0.97
LOG_GUARD = 2.0**-24


class Nemo(FrontEnd):
    """Log-mel features of the pre-emphasised utterance between zeros.

    A frame is centred on the first sample of its hop.
    """

    norm = UtteranceNorm

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        self.hop, self.window_size = HOP, WINDOW
        # where a window lies within the FFT shifts the spectrum's phase and not its power
        window_w = F.pad(torch.hann_window(WINDOW, periodic=False), (0, FFT - WINDOW))
        self.register_buffer("window_w", window_w, persistent=False)
        mel_kf = slaney_bank(config.num_mels, FFT, config.sample_rate)
        self.register_buffer("mel_kf", mel_kf, persistent=False)

    def num_frames(self, num_samples: Count) -> Count:
        return num_samples // self.hop

    def _features(self, wave_bn: Tensor, lens_b: Tensor, max_frames: int) -> Tensor:
        position_n = torch.arange(wave_bn.shape[1], device=wave_bn.device)
        before_bn = F.pad(wave_bn[:, :-1], (1, 0))
        emphasised_bn = wave_bn - PREEMPHASIS * before_bn
        # what lies past an utterance may be NaN
        emphasised_bn = emphasised_bn.where(position_n < lens_b.unsqueeze(1), 0.0)
        before = self.window_size // 2
        behind = (max_frames - 1) * self.hop + FFT - before - wave_bn.shape[1]
        placed_bn = F.pad(emphasised_bn, (before, behind))
        return in_pieces(self._log_mel, placed_bn.unfold(1, FFT, self.hop))

    def _log_mel(self, frames_btw: Tensor) -> Tensor:
        power_btk = power_spectrum(frames_btw * self.window_w)
        return torch.matmul(power_btk, self.mel_kf).add_(LOG_GUARD).log_()
