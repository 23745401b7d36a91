"""Subsampling and a stack of layers: features in, one vector per subsampled frame out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.config import AttentionConfig, EncoderConfig
from asr.nn.attention import ABSOLUTE_POSITIONS, attentions, build_attention, frame_mask
from asr.nn.conformer import Around, ConformerLayer, Convolution, FeedForward, SelfAttention
from asr.nn.dropout import Dropout
from asr.nn.past import Past
from asr.nn.residual import RESIDUALS, Frames, PreNorm
from asr.nn.subsampling import Subsampling
from asr.nn.transformer import TransformerLayer


def _conformer_layer(config: EncoderConfig, attention: SelfAttention, around: Around) -> nn.Module:
    return ConformerLayer(
        attention,
        Convolution(
            config.dim, config.conv_kernel, config.conv_norm, config.dropout, config.causal
        ),
        FeedForward(config.dim, config.ff_dim, config.dropout),
        FeedForward(config.dim, config.ff_dim, config.dropout),
        around,
        nn.LayerNorm(config.dim) if config.norm == "pre" else nn.Identity(),
    )


def _transformer_layer(
    config: EncoderConfig, attention: SelfAttention, around: Around
) -> nn.Module:
    return TransformerLayer(
        attention, FeedForward(config.dim, config.ff_dim, config.dropout), around
    )


Chunk = tuple[int, int | None]
"""Frames that see each other, and how many such chunks before them they see too (None: all)."""


@dataclass
class Stream:
    """What an encoder remembers between two chunks."""

    chunk: Chunk
    layers: list[Past]
    num_frames: int = 0
    feats_btf: Tensor | None = None


LAYERS = {"conformer": _conformer_layer, "transformer": _transformer_layer}


def _layer(config: EncoderConfig, attention: AttentionConfig, depth: float) -> nn.Module:
    """A layer; ``depth`` is its number over the number of layers: later ones are dropped more often
    (Huang et al. 2016, eq. 4)."""
    residual = RESIDUALS[config.norm]

    def around(module: nn.Module, weight: float) -> PreNorm:
        drop_rate = config.stochastic_depth * depth
        return residual(module, config.dim, weight, config.layer_scale, drop_rate)

    heads = SelfAttention(build_attention(attention, config.dim), config.dropout)
    return LAYERS[config.kind](config, heads, around)


class Encoder(nn.Module):
    """(b, t, f) features and their lengths -> (b, ceil(t / subsampling), dim) and their lengths."""

    def __init__(self, config: EncoderConfig, attention: AttentionConfig, num_mels: int):
        super().__init__()
        self.conv_kernel = config.conv_kernel
        self.subsampling = Subsampling(
            num_mels, config.subsampling_channels, config.dim, config.subsampling
        )
        absolute = ABSOLUTE_POSITIONS.get(attention.position)
        self.position = None if absolute is None else absolute()
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            _layer(config, attention, (number + 1) / config.num_layers)
            for number in range(config.num_layers)
        )
        # Conformer layers and post-norm ones end in a norm of their own
        ends_in_norm = config.kind == "conformer" or config.norm == "post"
        self.norm = nn.Identity() if ends_in_norm else nn.LayerNorm(config.dim)

    def forward(
        self, feats_btf: Tensor, lens_b: Tensor, chunk: Chunk | None = None
    ) -> tuple[Tensor, Tensor]:
        outputs, lens_b = self.outputs(feats_btf, lens_b, chunk)
        return outputs[-1], lens_b

    def outputs(
        self,
        feats_btf: Tensor,
        lens_b: Tensor,
        chunk: Chunk | None = None,
        after: Collection[int] = (),
    ) -> tuple[list[Tensor], Tensor]:
        """What the layers of the numbers ``after`` (from 1) give, normalised as the last one's, then
        what the last one gives; and the lengths. ``chunk``: what attention sees; None: all."""
        x_btd, lens_b = self.subsampling(feats_btf, lens_b)
        if self.position is not None:
            x_btd = self.position(x_btd, lens_b, 0)
        x_btd = self.dropout(x_btd)
        kind = x_btd.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # as layers give it, whose norms compute in float32: one compiled graph serves them all
            x_btd = x_btd.float()
        mask = Mask(key_lens=lens_b, query_lens=lens_b, chunk=chunk)
        frames = Frames(frame_mask(lens_b, x_btd.shape[1]), mask)
        outputs = []
        for number, layer in enumerate(self.layers, start=1):
            x_btd = layer(x_btd, frames)
            if number in after or number == len(self.layers):
                outputs.append(self.norm(x_btd))
        return outputs, lens_b

    def begin_stream(self, chunk: Chunk) -> Stream:
        """An empty memory for ``stream``."""
        size, left_chunks = chunk
        num_keys = None if left_chunks is None else size * left_chunks
        return Stream(chunk, [Past(num_keys, self.conv_kernel - 1) for _ in self.layers])

    def stream(self, feats_btf: Tensor, stream: Stream) -> Tensor:
        """(b, t, f), t at most a chunk's worth of features -> (b, ceil(t / subsampling), dim): what
        ``forward`` with the same chunk gives for these frames. A shorter t ends the stream."""
        factor, (size, _) = self.subsampling.factor, stream.chunk
        if feats_btf.shape[1] > factor * size or stream.num_frames % size:
            raise ValueError(
                f"feats_btf: got {feats_btf.shape[1]} frames after {stream.num_frames}, expected "
                f"{factor * size}, less only in the end"
            )
        # the convolutions that subsample reach back one output frame, so they read that again
        before = stream.feats_btf
        joined_btf = feats_btf if before is None else torch.cat([before, feats_btf], dim=1)
        stream.feats_btf = feats_btf[:, -factor:]
        lens_b = torch.full((len(feats_btf),), joined_btf.shape[1], device=feats_btf.device)
        x_btd, _ = self.subsampling(joined_btf, lens_b)
        x_btd = x_btd[:, 0 if before is None else 1 :]
        start, num_new = stream.num_frames, x_btd.shape[1]
        lens_b = torch.full_like(lens_b, num_new)
        if self.position is not None:
            x_btd = self.position(x_btd, lens_b, start)
        first = stream.layers[0].num_past_keys
        mask = Mask(chunk=stream.chunk, q_start=start, k_start=start - first)
        exist_bt = frame_mask(lens_b, num_new)
        for layer, past in zip(self.layers, stream.layers, strict=True):
            x_btd = layer(x_btd, Frames(exist_bt, mask, past))
        stream.num_frames += num_new
        return self.norm(x_btd)

    def attention_backend(self, device: torch.device, dtype: torch.dtype) -> str:
        """Which backend serves the layers' attention on this device."""
        chosen = attentions(self.layers)[0].resolve(device, dtype)
        return f"{chosen.name} ({chosen.engine})"
