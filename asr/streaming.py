"""Log-probabilities while the audio still comes: bounded latency, and in the end what the whole file
with the same chunks gives."""

from __future__ import annotations

import torch
from torch import Tensor

from asr.capabilities import chunk_refusal
from asr.config import Config
from asr.errors import InputError
from asr.model import Recogniser
from asr.nn.encoder import Chunk


class LogProbStream:
    """Samples in, as they come; log-probabilities out, a chunk of frames at a time.

    A chunk of ``size`` frames needs ``size * subsampling`` feature frames; latency is their duration
    and what the last window reaches beyond. Memory is bounded if ``left_chunks`` is.
    """

    def __init__(self, net: Recogniser, config: Config, chunk: Chunk):
        """
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
        self._net = net
        self._encoder = net.encoder.begin_stream(chunk)
        self._num_feats = size * config.encoder.subsampling
        # nothing here reaches backwards: windows start at multiples of the hop
        self._wave_n = next(net.parameters()).new_zeros(0)

    @torch.inference_mode()
    def feed(self, wave_n: Tensor) -> Tensor:
        """(n,) more samples in [-1, 1] at the model's rate -> (t, v) of the chunks they complete."""
        self._wave_n = torch.cat([self._wave_n, wave_n.to(self._wave_n)])
        fbank = self._net.features
        chunk_hops = self._num_feats * fbank.hop
        chunk_samples = chunk_hops - fbank.hop + fbank.window_size
        parts = [self._net.head.weight.new_zeros(0, self._net.head.out_features).float()]
        while len(self._wave_n) >= chunk_samples:
            parts.append(self._chunk(self._wave_n[:chunk_samples]))
            self._wave_n = self._wave_n[chunk_hops:]
        return torch.cat(parts)

    @torch.inference_mode()
    def finish(self) -> Tensor:
        """(t, v) of what is left, less than a chunk. The stream has ended."""
        rest_n, self._wave_n = self._wave_n, self._wave_n[:0]
        if self._net.features.num_frames(len(rest_n)) == 0:
            return self._net.head.weight.new_zeros(0, self._net.head.out_features).float()
        return self._chunk(rest_n)

    def _chunk(self, wave_n: Tensor) -> Tensor:
        lens_b = torch.tensor([len(wave_n)], device=wave_n.device)
        feats_btf, _ = self._net.normalised_features(wave_n[None], lens_b)
        return self._net.log_probs(self._net.encoder.stream(feats_btf, self._encoder))[0]
