"""An utterance as a model reads it, and the batches that training and decoding compute.

Shapes: b utterance, n sample, u token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from asr.data.store.manifest import LeftOut


@dataclass(frozen=True)
class Example:
    """One utterance of one epoch: ``wave_n`` float32 as augmented, ``tokens_u`` int64."""

    id: str
    wave_n: np.ndarray
    tokens_u: np.ndarray
    speaker: str
    text: str


@dataclass(frozen=True)
class Batch:
    """The batch that a training step, validation and decoding read.

    ids             utterance ids, b of them
    wave_bn         float32 samples in [-1, 1], zeros past the length
    wave_lens_b     int64 samples
    tokens_bu       int64 token ids, zeros (the blank) past the length
    token_lens_b    int64 tokens
    audio_s         seconds of audio, padding not counted, as augmented
    speakers        one per utterance
    texts           normalised references
    left_out        utterances that were to be in this batch and could not be read
    """

    ids: tuple[str, ...]
    wave_bn: Tensor
    wave_lens_b: Tensor
    tokens_bu: Tensor
    token_lens_b: Tensor
    audio_s: float
    speakers: tuple[str, ...]
    texts: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch there; copies from pinned memory do not wait."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, which a GPU can read by itself."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self,
            wave_bn=change(self.wave_bn),
            wave_lens_b=change(self.wave_lens_b),
            tokens_bu=change(self.tokens_bu),
            token_lens_b=change(self.token_lens_b),
        )


def collate(
    examples: Sequence[Example], sample_rate: int, left_out: Sequence[LeftOut] = ()
) -> Batch:
    """Zero-padded tensors, in the order given."""
    wave_bn, wave_lens_b = _pad([example.wave_n for example in examples], np.float32)
    tokens_bu, token_lens_b = _pad([example.tokens_u for example in examples], np.int64)
    return Batch(
        ids=tuple(example.id for example in examples),
        wave_bn=wave_bn,
        wave_lens_b=wave_lens_b,
        tokens_bu=tokens_bu,
        token_lens_b=token_lens_b,
        audio_s=float(wave_lens_b.sum()) / sample_rate,
        speakers=tuple(example.speaker for example in examples),
        texts=tuple(example.text for example in examples),
        left_out=tuple(left_out),
    )


def _pad(arrays: Sequence[np.ndarray], dtype: type[np.generic]) -> tuple[Tensor, Tensor]:
    lens_b = torch.tensor([len(array) for array in arrays], dtype=torch.int64)
    longest = max((len(array) for array in arrays), default=0)
    # NumPy's zeros are the system's own empty pages; PyTorch's are written once more.
    padded = np.zeros((len(arrays), longest), dtype=dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded), lens_b
