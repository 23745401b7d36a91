"""Fewer frames: strided convolutions before the encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from asr.config import EncoderConfig
from asr.nn.frames import Memory, frame_mask

Count = TypeVar("Count", int, Tensor)

FACTORS = (2, 4, 8)


class Subsampling(nn.Module):
    """3x3 convolutions of stride 2 over time and mel bins, all but the first depthwise-separable as
    in FastConformer (Rekesh et al. 2023, arXiv 2305.05084), then a projection to the width.

    Frames past an utterance's length are zeroed before each convolution, so an utterance gives the
    same frames alone and padded.
    """

    def __init__(self, num_mels: int, channels: int, dim: int, factor: int = 4):
        super().__init__()
        if factor not in FACTORS:
            raise ValueError(f"factor = {factor}: choose one of {', '.join(map(str, FACTORS))}")
        self.factor = factor
        separable = [_separable(channels) for _ in range(int(math.log2(factor)) - 1)]
        first = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.convolutions = nn.ModuleList([first, *separable])
        self.project = nn.Linear(channels * subsampled(num_mels, factor), dim)

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor]:
        """(b, t, f), (b) -> (b, ceil(t / factor), dim), ceil(lens / factor); at least one frame.

        In a stream, t is a multiple of ``factor`` everywhere but at the end.
        """
        if memory is not None:
            return self._next(feats_btf, lens_b, memory)
        if feats_btf.shape[1] == 0:
            # sound shorter than a window: a frame of padding keeps every shape legal, lens_b stays 0
            feats_btf = feats_btf.new_zeros(feats_btf.shape[0], 1, feats_btf.shape[2])
        # channels last: twice as fast on a CPU, and the last flattening below copies nothing
        x_bctf = feats_btf.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        for number, convolution in enumerate(self.convolutions):
            exist_b1t1 = frame_mask(lens_b, x_bctf.shape[2])[:, None, :, None]
            # features past a length may be anything; what is made of them is finite, and a product is
            # five times as fast on a CPU
            x_bctf = x_bctf * exist_b1t1 if number else torch.where(exist_b1t1, x_bctf, 0.0)
            x_bctf = nn.functional.relu(convolution(x_bctf))
            lens_b = _halve(lens_b)
        return self.project(x_bctf.permute(0, 2, 3, 1).flatten(2)), lens_b

    def _next(self, feats_btf: Tensor, lens_b: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """The convolutions reach back one frame of the output, so that one is read and made again."""
        joined_btf = memory.join(self, "feats", feats_btf, 1, self.factor)
        num_before = joined_btf.shape[1] - feats_btf.shape[1]
        again = subsampled(num_before, self.factor)
        x_btd, lens_b = self(joined_btf, lens_b + num_before)
        return x_btd[:, again:], lens_b - again


class Conv1dSubsampling(nn.Module):
    """Convolutions over time alone, as wide as the encoder, with GELU: one of stride 1, then those of
    stride 2 (Radford et al. 2022, arXiv 2212.04356, section 2.2).

    Frames past an utterance's length are zeroed before each convolution.
    """

    def __init__(self, num_mels: int, dim: int, factor: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(dim if number else num_mels, dim, 3, stride=2 if number else 1, padding=1)
            for number in range(1 + int(math.log2(factor)))
        )

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor]:
        """(b, t, f), (b) -> (b, ceil(t / factor), dim), ceil(lens / factor); at least one frame.

        Raises:
            ValueError: in a stream: the first convolution looks at the frame that comes next.
        """
        if memory is not None:
            raise ValueError("memory: these convolutions need whole utterances")
        if feats_btf.shape[1] == 0:
            feats_btf = feats_btf.new_zeros(feats_btf.shape[0], 1, feats_btf.shape[2])
        x_bct = feats_btf.transpose(1, 2)
        for number, convolution in enumerate(self.convolutions):
            exist_b1t = frame_mask(lens_b, x_bct.shape[2])[:, None]
            x_bct = x_bct * exist_b1t if number else torch.where(exist_b1t, x_bct, 0.0)
            x_bct = nn.functional.gelu(convolution(x_bct))
            lens_b = _halve(lens_b) if number else lens_b
        return x_bct.transpose(1, 2), lens_b


SUBSAMPLINGS: dict[str, Callable[[EncoderConfig, int], nn.Module]] = {
    "conv2d": lambda config, num_mels: Subsampling(
        num_mels, config.subsampling_channels, config.dim, config.subsampling
    ),
    "conv1d": lambda config, num_mels: Conv1dSubsampling(num_mels, config.dim, config.subsampling),
}
"""From an encoder's configuration and the number of mel bins to what stands before its layers."""


def _separable(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels),
        nn.Conv2d(channels, channels, 1),
    )


def subsampled(count: Count, factor: int) -> Count:
    """Return how many frames (or mel bins) ``Subsampling`` makes of this many."""
    for _ in range(int(math.log2(factor))):
        count = _halve(count)
    return count


def _halve(n: Count) -> Count:
    return (n + 1) // 2
