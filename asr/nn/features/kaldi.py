"""Log-mel filterbank with Kaldi's definitions, in batches on the waveform's device.

Shapes: b utterance, n sample, t frame, w sample within a window, k frequency bin, f mel bin.
"""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.config import FeatureConfig
from asr.errors import InputError
from asr.nn.features.mel import mel_bank
from asr.nn.features.norm import padding_mask

PREEMPHASIS = 0.97
# Kaldi floors mel energies at the float32 epsilon before the logarithm.
LOG_FLOOR = torch.finfo(torch.float32).eps
# Frames computed at once: an hour of speech needs no gigabytes of intermediate results, and small
# ones, near a core's cache, are up to twice as fast on a CPU.
FRAMES_AT_ONCE_CPU = 1 << 12
FRAMES_AT_ONCE = 1 << 18


class Fbank(nn.Module):
    """Kaldi's ``compute-fbank-feats`` with dither 0, no energy, on a padded batch.

    The features of an utterance do not depend on its padding nor on its batch; frames past its end
    are 0. Nothing is learnt and nothing is saved: all follows from the configuration.
    """

    window_w: Tensor
    mel_kf: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        # Kaldi truncates to whole samples.
        self.window_size = int(config.sample_rate * config.frame_ms * 0.001)
        self.hop = int(config.sample_rate * config.hop_ms * 0.001)
        self.snip_edges = config.snip_edges
        self.scale = config.scale
        self.num_mels = config.num_mels
        if self.window_size < 2 or self.hop < 1:
            raise InputError(
                f"features.frame_ms = {config.frame_ms:g}, features.hop_ms = {config.hop_ms:g}: "
                f"too short for {config.sample_rate} samples per second"
            )
        self.fft_size = 1 << (self.window_size - 1).bit_length()
        # Zeros after the window spare the FFT a padding pass over all frames.
        window_w = F.pad(povey_window(self.window_size), (0, self.fft_size - self.window_size))
        self.register_buffer("window_w", window_w, persistent=False)
        self.register_buffer("mel_kf", mel_bank(config, self.fft_size), persistent=False)

    @overload
    def num_frames(self, num_samples: int) -> int: ...

    @overload
    def num_frames(self, num_samples: Tensor) -> Tensor: ...

    def num_frames(self, num_samples: int | Tensor) -> int | Tensor:
        """Frames of an utterance (or of each of a tensor of lengths), exactly Kaldi's count."""
        if self.snip_edges:
            frames = (num_samples - self.window_size) // self.hop + 1
        else:
            frames = (num_samples + self.hop // 2) // self.hop
        return frames.clamp(min=0) if isinstance(frames, Tensor) else max(frames, 0)

    def forward(self, wave_bn: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            wave_bn: samples in [-1, 1], any floating type; what lies past an utterance's length is
                never looked at.
            lens_b: samples of each utterance, at most n.

        Returns:
            (feats_btf, feat_lens_b int64); t is what n samples give. Features are float32, or float64
            in a module that was converted to it.
        """
        # bfloat16 keeps 8 bits: far too few for an FFT and a logarithm.
        with torch.autocast(wave_bn.device.type, enabled=False):
            return self._forward(wave_bn.to(self.window_w.dtype), lens_b.to(wave_bn.device))

    def _forward(self, wave_bn: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        feat_lens_b = self.num_frames(lens_b)
        max_frames = self.num_frames(wave_bn.shape[1])
        if max_frames == 0 or wave_bn.shape[0] == 0:
            return wave_bn.new_zeros(wave_bn.shape[0], max_frames, self.num_mels), feat_lens_b
        wave_bn = self._place(wave_bn, lens_b, (max_frames - 1) * self.hop + self.fft_size)
        # Kaldi works on each frame: subtract its mean m, then pre-emphasis. Pre-emphasis commutes
        # with cutting frames except at a frame's first sample, where the window is 0; and what it
        # leaves of a constant m is m * (1 - 0.97). So it is done once per sample, not per frame.
        emphasised_bn = wave_bn.clone()
        emphasised_bn[:, 1:].sub_(wave_bn[:, :-1], alpha=PREEMPHASIS)
        frames_btw = wave_bn.unfold(1, self.fft_size, self.hop)[..., : self.window_size]
        emphasised_btw = emphasised_bn.unfold(1, self.fft_size, self.hop)
        at_once = FRAMES_AT_ONCE_CPU if wave_bn.device.type == "cpu" else FRAMES_AT_ONCE
        at_once = max(1, at_once // wave_bn.shape[0])
        pieces = zip(frames_btw.split(at_once, 1), emphasised_btw.split(at_once, 1), strict=True)
        feats_btf = torch.cat([self._log_mel(*piece) for piece in pieces], dim=1)
        return feats_btf.masked_fill_(padding_mask(feat_lens_b, max_frames), 0.0), feat_lens_b

    def _log_mel(self, frames_btw: Tensor, emphasised_btw: Tensor) -> Tensor:
        left_of_mean_bt1 = frames_btw.mean(-1, keepdim=True) * (1 - PREEMPHASIS)
        windowed_btw = (emphasised_btw - left_of_mean_bt1).mul_(self.window_w)
        spectrum_btk = torch.fft.rfft(windowed_btw)
        power_btk = spectrum_btk.real.square().addcmul_(spectrum_btk.imag, spectrum_btk.imag)
        return torch.matmul(power_btk, self.mel_kf).clamp_(min=LOG_FLOOR).log_()

    def _place(self, wave_bn: Tensor, lens_b: Tensor, span: int) -> Tensor:
        """``span`` samples, scaled, with what the first and the last frame need around them."""
        if self.snip_edges:
            kept = min(span, wave_bn.shape[1])
            position_n = torch.arange(kept, device=wave_bn.device)
            # A window's zeros do not silence a NaN in the padding; 0 samples do.
            scaled_bn = torch.where(
                position_n < lens_b.unsqueeze(1), wave_bn[:, :kept] * self.scale, 0.0
            )
            return F.pad(scaled_bn, (0, span - kept))
        # Frames are centred on the middle of their hop; samples beyond an edge are mirrored, the
        # edge sample included, again and again if the utterance is shorter than a window.
        start = self.hop // 2 - self.window_size // 2
        position_n = torch.arange(start, start + span, device=wave_bn.device)
        lens_b1 = lens_b.clamp(min=1).unsqueeze(1)
        index_bn = position_n.unsqueeze(0) % (2 * lens_b1)
        index_bn = torch.where(index_bn < lens_b1, index_bn, 2 * lens_b1 - 1 - index_bn)
        return wave_bn.gather(1, index_bn) * self.scale


def povey_window(size: int) -> Tensor:
    """Kaldi's default window: a Hann window (zero at both ends) to the power 0.85, float32."""
    phase_w = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    return (0.5 - 0.5 * torch.cos(phase_w)).pow(0.85).float()
