"""Normalisation of features, and its statistics.

Shapes: b utterance, t frame, f mel bin.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asr.errors import InputError

# A mel bin that never changes (silence only) is centred and left unscaled below this deviation.
MIN_STD = 1e-3
# What NeMo adds to the deviation of a mel bin within an utterance.
UTTERANCE_EPSILON = 1e-5


class Norm(nn.Module):
    """Interface of a normalisation: ``forward(feats_btf, lens_b)`` -> features of the same shape.

    Frames past an utterance's length are 0, before and after it.
    """

    def __init__(self, num_mels: int) -> None:
        super().__init__()

    def forward(self, feats_btf: Tensor, lens_b: Tensor) -> Tensor:
        raise NotImplementedError


class NoNorm(Norm):
    """Features as they are."""

    def forward(self, feats_btf: Tensor, lens_b: Tensor) -> Tensor:
        return feats_btf


class GlobalNorm(Norm):
    """Subtracts one mean and divides by one deviation per mel bin, both estimated on training data.

    Fixed numbers, not the utterance's own: a stream has no whole utterance. Saved with the weights.
    """

    mean_f: Tensor
    inv_std_f: Tensor

    def __init__(self, num_mels: int) -> None:
        super().__init__(num_mels)
        self.register_buffer("mean_f", torch.zeros(num_mels))
        self.register_buffer("inv_std_f", torch.ones(num_mels))

    def set_statistics(self, mean_f: Tensor, std_f: Tensor) -> None:
        """Take over what ``estimate_norm`` returned."""
        self.mean_f.copy_(mean_f)
        self.inv_std_f.copy_(std_f.clamp(min=MIN_STD).reciprocal())

    def forward(self, feats_btf: Tensor, lens_b: Tensor) -> Tensor:
        """Normalised features, 0 (which is now the mean) past each utterance's length."""
        feats_btf = (feats_btf - self.mean_f) * self.inv_std_f
        return feats_btf.masked_fill(padding_mask(lens_b, feats_btf.shape[1]), 0.0)


class UtteranceNorm(Norm):
    """Subtracts an utterance's own mean per mel bin and divides by its deviation.

    The deviation is the unbiased one, and 0 of a single frame.
    """

    def forward(self, feats_btf: Tensor, lens_b: Tensor) -> Tensor:
        padding_bt1 = padding_mask(lens_b, feats_btf.shape[1])
        # float64: a mel bin without sound is constant, and must be its mean to the last bit
        exact_btf = feats_btf.double()
        count_b11 = lens_b[:, None, None].clamp(min=1)
        mean_b1f = exact_btf.masked_fill(padding_bt1, 0.0).sum(1, keepdim=True) / count_b11
        centred_btf = (exact_btf - mean_b1f).masked_fill(padding_bt1, 0.0)
        variance_b1f = centred_btf.square().sum(1, keepdim=True) / (count_b11 - 1).clamp(min=1)
        return (centred_btf / (variance_b1f.sqrt() + UTTERANCE_EPSILON)).to(feats_btf.dtype)


def estimate_norm(batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per mel bin over the valid frames of (feats_btf, lens_b) batches.

    Sums are float64 on the batches' device and added in the order given: the same batches give the
    same bits.

    Returns:
        (mean_f, std_f), float32 on the CPU.

    Raises:
        InputError: not a single frame.
    """
    count, sum_f, square_f = 0, torch.zeros(()), torch.zeros(())
    for feats_btf, lens_b in batches:
        feats_btf = feats_btf.double()
        feats_btf = feats_btf.masked_fill(padding_mask(lens_b, feats_btf.shape[1]), 0.0)
        count += int(lens_b.sum())
        sum_f = sum_f + feats_btf.sum((0, 1)).cpu()
        square_f = square_f + feats_btf.square().sum((0, 1)).cpu()
    if count == 0:
        raise InputError("features: there is no audio to estimate mean and variance from")
    mean_f = sum_f / count
    variance_f = (square_f / count - mean_f.square()).clamp(min=0.0)
    return mean_f.float(), variance_f.sqrt().float()


def padding_mask(lens_b: Tensor, max_frames: int) -> Tensor:
    """True (shape b, t, 1) where a frame lies past its utterance's length."""
    frames_t = torch.arange(max_frames, device=lens_b.device)
    return (frames_t >= lens_b.unsqueeze(1)).unsqueeze(-1)
