"""Log-mel filterbank with Kaldi's definitions, in batches on the waveform's device.

Shapes: b utterance, n sample, t frame, w sample within a window, k frequency bin, f mel bin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asr.config import FeatureConfig
from asr.errors import InputError
from asr.nn.features.base import Count, FrontEnd, in_pieces, power_spectrum
from asr.nn.features.mel import mel_bank
from asr.nn.features.norm import GlobalNorm, padding_mask

PREEMPHASIS = 0.97
# Kaldi floors mel energies at the float32 epsilon before the logarithm.
LOG_FLOOR = torch.finfo(torch.float32).eps


class Fbank(FrontEnd):
    """Kaldi's ``compute-fbank-feats`` with dither 0, no energy, on a padded batch."""

    norm = GlobalNorm

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__(config)
        # Kaldi truncates to whole samples.
        self.window_size = int(config.sample_rate * config.frame_ms * 0.001)
        self.hop = int(config.sample_rate * config.hop_ms * 0.001)
        self.snip_edges = config.snip_edges
        self.scale = config.scale
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

    def num_frames(self, num_samples: Count) -> Count:
        """Return the frames of an utterance (or of each of a tensor of lengths), Kaldi's count."""
        if self.snip_edges:
            frames = (num_samples - self.window_size) // self.hop + 1
        else:
            frames = (num_samples + self.hop // 2) // self.hop
        return frames.clamp(min=0) if isinstance(frames, Tensor) else max(frames, 0)

    def _features(self, wave_bn: Tensor, lens_b: Tensor, max_frames: int) -> Tensor:
        wave_bn = self._place(wave_bn, lens_b, (max_frames - 1) * self.hop + self.fft_size)
        # Kaldi works on each frame: subtract its mean m, then pre-emphasis. Pre-emphasis commutes
        # with cutting frames except at a frame's first sample, where the window is 0; and what it
        # leaves of a constant m is m * (1 - 0.97). So it is done once per sample, not per frame.
        emphasised_bn = wave_bn.clone()
        emphasised_bn[:, 1:].sub_(wave_bn[:, :-1], alpha=PREEMPHASIS)
        frames_btw = wave_bn.unfold(1, self.fft_size, self.hop)[..., : self.window_size]
        emphasised_btw = emphasised_bn.unfold(1, self.fft_size, self.hop)
        return in_pieces(self._log_mel, frames_btw, emphasised_btw)

    def _log_mel(self, frames_btw: Tensor, emphasised_btw: Tensor) -> Tensor:
        left_of_mean_bt1 = frames_btw.mean(-1, keepdim=True) * (1 - PREEMPHASIS)
        windowed_btw = (emphasised_btw - left_of_mean_bt1).mul_(self.window_w)
        return torch.matmul(power_spectrum(windowed_btw), self.mel_kf).clamp_(min=LOG_FLOOR).log_()

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

    def in_convolutions(self) -> ConvolutionFbank:
        return ConvolutionFbank(self)


class ConvolutionFbank(nn.Module):
    """The features of ``Fbank``, which it is made from, in operators that ONNX has.

    Raises:
        InputError: features with mirrored edges.
    """

    def __init__(self, fbank: Fbank):
        super().__init__()
        if not fbank.snip_edges:
            raise InputError("features.snip_edges = false: not exported; train with true")
        self.hop, self.scale, self.num_frames = fbank.hop, fbank.scale, fbank.num_frames
        self.register_buffer("mel_kf", fbank.mel_kf)
        self.mel_kf: Tensor
        self.register_buffer("kernel", _transform(fbank))
        self.kernel: Tensor

    def forward(self, wave_bn: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        position_n = torch.arange(wave_bn.shape[1], device=wave_bn.device)
        wave_bn = torch.where(position_n < lens_b[:, None], wave_bn * self.scale, 0.0)
        spectrum_bct = F.conv1d(wave_bn[:, None], self.kernel[:, None], stride=self.hop)
        real_bkt, imaginary_bkt = spectrum_bct.chunk(2, dim=1)
        power_btk = (real_bkt.square() + imaginary_bkt.square()).transpose(1, 2)
        feats_btf = torch.matmul(power_btk, self.mel_kf).clamp(min=LOG_FLOOR).log()
        feat_lens_b = self.num_frames(lens_b)
        return feats_btf.masked_fill(
            padding_mask(feat_lens_b, feats_btf.shape[1]), 0.0
        ), feat_lens_b


def _transform(fbank: Fbank) -> Tensor:
    """(2 k, w): what maps the samples of a frame to the real and the imaginary half of its spectrum."""
    size = fbank.window_size
    frames_ww = torch.eye(size, dtype=torch.float64)
    frames_ww = frames_ww - frames_ww.mean(1, keepdim=True)
    # Kaldi takes the first sample as its own predecessor; the window silences it anyway
    before_ww = torch.cat([frames_ww[:, :1], frames_ww[:, :-1]], dim=1)
    windowed_ww = (frames_ww - PREEMPHASIS * before_ww) * fbank.window_w[:size].double()
    spectrum_wk = torch.fft.rfft(windowed_ww, n=fbank.fft_size)
    return torch.cat([spectrum_wk.real, spectrum_wk.imag], dim=1).T.float().contiguous()


def povey_window(size: int) -> Tensor:
    """Kaldi's default window: a Hann window (zero at both ends) to the power 0.85, float32."""
    phase_w = torch.arange(size, dtype=torch.float64) * (2 * math.pi / (size - 1))
    return (0.5 - 0.5 * torch.cos(phase_w)).pow(0.85).float()
