"""Frames while the audio still comes: bounded latency, and in the end what the whole file with the same
chunks gives."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from asr.config import Config
from asr.config.kinds import ENCODERS
from asr.config.rules import chunk_refusal, sees_past_only
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.nn.encoder import Chunk
from asr.nn.features.table import build_front_end
from asr.nn.frames import Memory

PAST_ONLY_SIZE = 16
"""Frames of a chunk where a model sees the past only: its results are the same with every size."""


def choose_chunk(config: Config, size: int | None = None, left_chunks: int | None = None) -> Chunk:
    """The chunk to stream a trained model with, one that it knows from training.

    A model that sees the past only needs no chunks in training: it may have any.

    Args:
        size: frames that see each other; None: the largest of training, or ``PAST_ONLY_SIZE``.
        left_chunks: chunks before that they see too; None: the most of training, and where that was
            all of them, as many as ``attention.window`` reaches into or, without one, as the longest
            utterance had: a stream has no beginning to go back to.

    Raises:
        InputError: the model was not trained with chunks, or not with these.
    """
    sizes = sorted({size for size in config.encoder.chunk_sizes if size})
    takes_any = not sizes and sees_past_only(config)
    if not sizes:
        _check_streams(config)
        sizes = [PAST_ONLY_SIZE if size is None else max(size, 1)]
    if size is None:
        size = sizes[-1]
    if size not in sizes:
        known = "any number from 1" if takes_any else ", ".join(map(str, sizes))
        raise InputError(f"chunks of {size} frames: this model was trained with {known}")
    lefts = sorted(set(config.encoder.left_chunks))
    sees_all = takes_any or lefts[0] < 0
    if left_chunks is None and sees_all:
        frame_s = build_front_end(config.features).frame_s * config.encoder.subsampling
        reach = config.attention.window or config.data.max_duration_s / frame_s
        left_chunks = math.ceil(reach / size)
    elif left_chunks is None:
        left_chunks = lefts[-1]
    if left_chunks < 0 or not (sees_all or left_chunks in lefts):
        known = "any number from 0" if sees_all else ", ".join(map(str, lefts))
        raise InputError(f"{left_chunks} chunks before: this model was trained with {known}")
    return size, left_chunks


def _check_streams(config: Config) -> None:
    """Raise InputError unless the model, which knows no chunks, sees the past only and can stream."""
    reads_causal = "causal" in ENCODERS[config.encoder.kind].reads
    causal = "encoder.causal=true " if reads_causal else ""
    encoder = dataclasses.replace(config.encoder, causal=reads_causal)
    if reason := chunk_refusal(dataclasses.replace(config, encoder=encoder), "streaming"):
        raise InputError(reason)
    if not sees_past_only(config):
        raise InputError(
            "streaming needs a model that was trained with chunks, this one saw whole utterances: "
            f"train with {causal}encoder.chunk_sizes=[0,8,16,32] encoder.left_chunks=[4,8], or with "
            f"{causal}attention.causal=true"
        )


class FrameStream:
    """Samples in, as they come; frames of a head out, a chunk at a time.

    A chunk of ``size`` frames needs ``size * subsampling`` feature frames; a sample waits at most for
    ``chunk_s`` and ``lookahead_s``. Memory is bounded if ``left_chunks`` is.
    """

    def __init__(self, net: Recogniser, config: Config, chunk: Chunk, head: str | None = None):
        """
        Args:
            head: whose frames; None: the first one's.

        Raises:
            InputError: this configuration cannot be cut into chunks, or the chunk has no frames.
        """
        size, left_chunks = chunk
        if size < 1 or (left_chunks is not None and left_chunks < 0):
            raise InputError(
                f"chunk = {size} frames with {left_chunks} before: give at least one frame, "
                "and at least no chunk before"
            )
        reason = chunk_refusal(config, "streaming")
        if reason:
            raise InputError(reason)
        if not config.features.snip_edges:
            raise InputError(
                "streaming needs features.snip_edges = true: there is no edge to mirror"
            )
        self._net, self._head = net, net.head(head)
        self._chunk, self._memory = chunk, Memory()
        self._num_feats = size * config.encoder.subsampling
        self._rate = config.features.sample_rate
        # nothing here reaches backwards: windows start at multiples of the hop
        self._wave_n = torch.zeros(0, dtype=net.dtype, device=net.device)

    @property
    def chunk_s(self) -> float:
        """Seconds from one chunk to the next."""
        return self._num_feats * self._net.features.hop / self._rate

    @property
    def lookahead_s(self) -> float:
        """Seconds after a chunk that its last window needs."""
        fbank = self._net.features
        return (fbank.window_size - fbank.hop) / self._rate

    @torch.inference_mode()
    def feed(self, wave_n: Tensor) -> Tensor:
        """(n,) more samples in [-1, 1] at the model's rate -> (t, x) of the chunks they complete."""
        self._wave_n = torch.cat([self._wave_n, wave_n.to(self._wave_n)])
        fbank = self._net.features
        chunk_hops = self._num_feats * fbank.hop
        chunk_samples = chunk_hops - fbank.hop + fbank.window_size
        parts = [self._no_frames()]
        while len(self._wave_n) >= chunk_samples:
            parts.append(self._next(self._wave_n[:chunk_samples]))
            self._wave_n = self._wave_n[chunk_hops:]
        return torch.cat(parts)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """(t, x) of what is left, less than a chunk. The stream has ended."""
        rest_n, self._wave_n = self._wave_n, self._wave_n[:0]
        if self._net.features.num_frames(len(rest_n)) == 0:
            return self._no_frames()
        return self._next(rest_n)

    def _next(self, wave_n: Tensor) -> Tensor:
        lens_b = torch.tensor([len(wave_n)], device=wave_n.device)
        feats_btf, _ = self._net.normalised_features(wave_n[None], lens_b)
        encoded_btd = self._net.encoder.stream(feats_btf, self._chunk, self._memory)
        return self._head.frames(encoded_btd)[0]

    def _no_frames(self) -> Tensor:
        return torch.zeros(0, self._head.num_channels, device=self._net.device)
