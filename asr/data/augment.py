"""Augmentation whose every draw is a function of (seed, epoch, utterance) and of nothing else.

Neither the number of workers or processes nor the batch an utterance lands in changes its data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr
import torch
from torch import Tensor

from asr.config import AugmentConfig
from asr.data.draws import draw_many


def draw_speeds(keys: np.ndarray, seed: int, epoch: int, config: AugmentConfig) -> np.ndarray:
    """One of ``config.speed_factors`` for each utterance's key, all equally likely."""
    factors = np.array(config.speed_factors, dtype=np.float64)
    if len(factors) == 1:
        return factors.repeat(len(keys))
    drawn = draw_many(keys, seed, epoch, "speed") * len(factors)
    return factors[drawn.astype(np.int64)]


def draw_edge_silences_s(
    keys: np.ndarray, seed: int, epoch: int, config: AugmentConfig
) -> np.ndarray:
    """(2, n) seconds of silence before and after each utterance: none at half of the edges, so that
    speech from the first sample to the last stays familiar, else uniform up to
    ``config.edge_silence_s``."""
    if not config.edge_silence_s:
        return np.zeros((2, len(keys)))
    edges = ("silence before", "silence after")
    drawn_2n = np.stack([draw_many(keys, seed, epoch, edge) for edge in edges])
    return config.edge_silence_s * np.maximum(0.0, 2.0 * drawn_2n - 1.0)


def change_speed(wave_n: np.ndarray, factor: float, sample_rate: int) -> np.ndarray:
    """Play faster (factor above 1: shorter, higher) or slower, tempo and pitch together.

    Ko et al. 2015, "Audio augmentation for speech recognition". The result has about n / factor
    samples and is the same bits on every call.
    """
    if factor == 1.0:
        return wave_n
    faster_n = soxr.resample(wave_n, sample_rate * factor, sample_rate)
    return np.asarray(faster_n, dtype=np.float32)


def spec_augment(
    feats_btf: Tensor,
    lens_b: Tensor,
    rngs: Sequence[np.random.Generator],
    config: AugmentConfig,
    frame_s: float = 0.01,
) -> Tensor:
    """SpecAugment (Park et al. 2019) with masks in proportion to the length (Park et al. 2020).

    Frequency masks: ``num_freq_masks`` of width uniform in 0..``max_freq_mask``. Time masks: as
    many as ``time_masks_per_s`` asks for the utterance's seconds, at most ``num_time_masks``, of
    width uniform in 0..``time_mask_fraction`` of its frames. Starts are uniform over the places
    where a mask lies wholly inside the utterance. Masked values become 0, the mean after
    ``GlobalNorm``.

    Args:
        feats_btf: normalised features; not changed in place.
        lens_b: valid frames, on the device of the features (nothing is read back to the host).
        rngs: one generator per utterance; each is asked for the same count of numbers whatever the
            length, so lengths stay on the device.
        frame_s: seconds between frames.
    """
    num_freq, num_time = config.num_freq_masks, config.num_time_masks
    if num_freq + num_time == 0 or feats_btf.numel() == 0:
        return feats_btf
    drawn = np.stack([rng.random((num_freq + num_time, 2), dtype=np.float32) for rng in rngs])
    uniform_bm2 = torch.from_numpy(drawn).to(feats_btf.device, non_blocking=True)
    return mask_features(feats_btf, lens_b, uniform_bm2, config, frame_s)


def mask_features(
    feats_btf: Tensor,
    lens_b: Tensor,
    uniform_bm2: Tensor,
    config: AugmentConfig,
    frame_s: float = 0.01,
) -> Tensor:
    """``spec_augment`` from numbers already drawn: (b, masks, 2) uniform in [0, 1) on the device of
    the features, those of the frequency masks first."""
    num_freq, num_time = config.num_freq_masks, config.num_time_masks
    lens_b1 = lens_b.to(feats_btf.device).unsqueeze(1)
    num_bins = feats_btf.shape[2]
    bins_11 = torch.full_like(lens_b1[:1], num_bins)
    widest_bin_11 = bins_11.clamp(max=config.max_freq_mask)
    freq_mask_bf = _cover(uniform_bm2[:, :num_freq], widest_bin_11, bins_11, num_bins)
    widest_frame_b1 = (lens_b1 * config.time_mask_fraction).long()
    # A mask that the utterance is too short for gets width 0.
    wanted_b1 = (lens_b1 * (frame_s * config.time_masks_per_s)).round().clamp(max=num_time)
    order_m = torch.arange(num_time, device=feats_btf.device)
    widest_frame_bm = torch.where(order_m < wanted_b1, widest_frame_b1, 0)
    uniform_bm2 = uniform_bm2[:, num_freq:]
    time_mask_bt = _cover(uniform_bm2, widest_frame_bm, lens_b1, feats_btf.shape[1])
    return feats_btf.masked_fill(time_mask_bt.unsqueeze(2) | freq_mask_bf.unsqueeze(1), 0.0)


def _cover(uniform_bm2: Tensor, widest_bm: Tensor, lens_b1: Tensor, size: int) -> Tensor:
    """True at the positions (b, size) that one of m masks covers.

    Width is uniform in 0..widest, start uniform in 0..len - width, both inclusive.
    """
    width_bm = _scale_to(uniform_bm2[..., 0], widest_bm)
    start_bm = _scale_to(uniform_bm2[..., 1], lens_b1 - width_bm)
    position_p = torch.arange(size, device=uniform_bm2.device)
    start_bm1, end_bm1 = start_bm.unsqueeze(-1), (start_bm + width_bm).unsqueeze(-1)
    return ((position_p >= start_bm1) & (position_p < end_bm1)).any(1)


def _scale_to(uniform: Tensor, highest: Tensor) -> Tensor:
    """Integers uniform in 0..highest from numbers uniform in [0, 1)."""
    # Rounding can lift a product to highest + 1; the minimum takes it back.
    return torch.minimum((uniform * (highest + 1)).long(), highest)
