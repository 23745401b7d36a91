"""Interface of a front end, which turns waveforms into log-mel features.

Shapes: b utterance, n sample, t frame, w sample within a window, k frequency bin, f mel bin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from asr.config import FeatureConfig
from asr.nn.features.norm import Norm, padding_mask

Count = TypeVar("Count", int, Tensor)

# Frames computed at once: an hour of speech needs no gigabytes of intermediate results, and small
# ones, near a core's cache, are up to twice as fast on a CPU.
FRAMES_AT_ONCE_CPU = 1 << 12
FRAMES_AT_ONCE = 1 << 18


class FrontEnd(nn.Module):
    """Log-mel features of a padded batch.

    The features of an utterance do not depend on its padding nor on its batch; frames past its end
    are 0. Nothing is learnt and nothing is saved: all follows from the configuration.

    Attributes:
        norm: class of the normalisation behind it, made with the number of mel bins.
        sample_rate: samples per second.
        hop, window_size: samples from one frame to the next, and that a frame sees.
        num_mels: mel bins.
    """

    norm: ClassVar[type[Norm]]
    hop: int
    window_size: int
    window_w: Tensor
    mel_kf: Tensor

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.sample_rate, self.num_mels = config.sample_rate, config.num_mels

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / self.sample_rate

    def num_frames(self, num_samples: Count) -> Count:
        """Return the frames of an utterance (or of each of a tensor of lengths)."""
        raise NotImplementedError

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
            wave_bn, lens_b = wave_bn.to(self.window_w.dtype), lens_b.to(wave_bn.device)
            feat_lens_b, max_frames = self.num_frames(lens_b), self.num_frames(wave_bn.shape[1])
            if max_frames == 0 or wave_bn.shape[0] == 0:
                return wave_bn.new_zeros(wave_bn.shape[0], max_frames, self.num_mels), feat_lens_b
            feats_btf = self._features(wave_bn, lens_b, max_frames)
            return feats_btf.masked_fill_(padding_mask(feat_lens_b, max_frames), 0.0), feat_lens_b

    def _features(self, wave_bn: Tensor, lens_b: Tensor, max_frames: int) -> Tensor:
        """Return (b, max_frames, f), past an utterance's frames anything."""
        raise NotImplementedError

    def in_convolutions(self) -> nn.Module:
        """Return a module that computes the same in operators that ONNX has.

        Only of kinds that are exported (``asr.config.kinds.FRONT_ENDS``).

        Raises:
            InputError: an option of the configuration is not exported.
        """
        raise NotImplementedError


def in_pieces(function: Callable[..., Tensor], *frames_btw: Tensor) -> Tensor:
    """Return a function of the windows of frames, computed on some of them at a time."""
    one = frames_btw[0]
    at_once = FRAMES_AT_ONCE_CPU if one.device.type == "cpu" else FRAMES_AT_ONCE
    at_once = max(1, at_once // one.shape[0])
    pieces = zip(*(each.split(at_once, 1) for each in frames_btw), strict=True)
    return torch.cat([function(*piece) for piece in pieces], dim=1)


def power_spectrum(windowed_btw: Tensor) -> Tensor:
    """Return the squared magnitudes (b, t, w / 2 + 1) of the Fourier transform."""
    spectrum_btk = torch.fft.rfft(windowed_btw)
    return spectrum_btk.real.square().addcmul_(spectrum_btk.imag, spectrum_btk.imag)
