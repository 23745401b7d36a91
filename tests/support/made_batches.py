"""Batches without a corpus."""

from __future__ import annotations

import torch

from asr.data.examples import Batch


def batch_of(*num_samples: int, seed: int = 1) -> Batch:
    """Noise of these lengths, zeros after; every utterance (``utterance-0``, …) has the tokens 1, 2, 3.
    An utterance is the same whatever follows it."""
    generator = torch.Generator().manual_seed(seed)
    count = len(num_samples)
    wave_bn = torch.zeros(count, max(num_samples))
    for row_n, length in zip(wave_bn, num_samples, strict=True):
        row_n[:length] = 0.1 * torch.randn(length, generator=generator)
    return Batch(
        ids=tuple(f"utterance-{number}" for number in range(count)),
        wave_bn=wave_bn,
        wave_lens_b=torch.tensor(num_samples),
        tokens_bu=torch.arange(1, 4).repeat(count, 1),
        token_lens_b=torch.full((count,), 3),
        audio_s=sum(num_samples) / 16000,
        speakers=("",) * count,
        texts=("",) * count,
    )
