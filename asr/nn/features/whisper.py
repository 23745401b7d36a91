"""Whisper's log-mel features (Radford et al. 2022, arXiv 2212.04356), clamped by the utterance.

Shapes: b utterance, n sample, t frame, w sample within a window, k frequency bin, f mel bin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asr.config import FeatureConfig
from asr.nn.features.base import Count, FrontEnd, in_pieces, power_spectrum
from asr.nn.features.mel import slaney_bank
from asr.nn.features.norm import NoNorm, padding_mask

WINDOW, HOP = 400, 160
LOG_FLOOR = 1e-10
# Powers of ten below an utterance's loudest mel bin, at which its quieter ones are clamped.
RANGE = 8.0


class Whisper(FrontEnd):
    """Log-mel features of an utterance and, with ``pad_s``, of the silence that fills it up.

    Whisper was trained with zeros up to 30 seconds. They are part of the utterance here: their frames
    exist and count. A frame is centred on the first sample of its hop.
    """

    norm = NoNorm

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        self.hop, self.window_size = HOP, WINDOW
        self.least_samples = round(config.pad_s * config.sample_rate)
        self.register_buffer("window_w", torch.hann_window(WINDOW), persistent=False)
        mel_kf = slaney_bank(config.num_mels, WINDOW, config.sample_rate)
        self.register_buffer("mel_kf", mel_kf, persistent=False)

    def num_frames(self, num_samples: Count) -> Count:
        return self._filled_up(num_samples) // self.hop

    def _filled_up(self, num_samples: Count) -> Count:
        if isinstance(num_samples, Tensor):
            return num_samples.clamp(min=self.least_samples)
        return max(num_samples, self.least_samples)

    def _features(self, wave_bn: Tensor, lens_b: Tensor, max_frames: int) -> Tensor:
        placed_bn = self._place(wave_bn, lens_b, (max_frames - 1) * self.hop + self.window_size)
        feats_btf = in_pieces(self._log_mel, placed_bn.unfold(1, self.window_size, self.hop))
        none_bt1 = padding_mask(self.num_frames(lens_b), max_frames)
        loudest_b11 = feats_btf.masked_fill(none_bt1, -torch.inf).amax((1, 2), keepdim=True)
        return (feats_btf.maximum(loudest_b11 - RANGE) + 4.0) / 4.0

    def _log_mel(self, frames_btw: Tensor) -> Tensor:
        power_btk = power_spectrum(frames_btw * self.window_w)
        return torch.matmul(power_btk, self.mel_kf).clamp_(min=LOG_FLOOR).log10_()

    def _place(self, wave_bn: Tensor, lens_b: Tensor, span: int) -> Tensor:
        """``span`` samples from half a window before the first on.

        Samples beyond an edge are mirrored, the edge sample itself not repeated, again and again if
        there are fewer than half a window of them.
        """
        filled_b1 = self._filled_up(lens_b).clamp(min=1).unsqueeze(1)
        missing = self._filled_up(wave_bn.shape[1]) - wave_bn.shape[1]
        position_n = torch.arange(wave_bn.shape[1] + missing, device=wave_bn.device)
        # what lies past an utterance may be NaN
        wave_bn = F.pad(wave_bn, (0, missing)).where(position_n < lens_b.unsqueeze(1), 0.0)
        start = -(self.window_size // 2)
        index_n = torch.arange(start, start + span, device=wave_bn.device)
        period_b1 = (2 * filled_b1 - 2).clamp(min=1)
        index_bn = index_n.unsqueeze(0) % period_b1
        return wave_bn.gather(1, index_bn.minimum(period_b1 - index_bn))
