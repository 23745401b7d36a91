"""Subsampling and a stack of layers: features in, one vector per subsampled frame out."""

from __future__ import annotations

from collections.abc import Collection

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.config import AttentionConfig, EncoderConfig
from asr.nn.attention import ABSOLUTE_POSITIONS, attentions, build_attention
from asr.nn.conformer import ConformerLayer
from asr.nn.dropout import Dropout
from asr.nn.ebranchformer import EBranchformerLayer
from asr.nn.frames import Frames, Memory, frame_mask
from asr.nn.modules import Layer, SelfAttention
from asr.nn.residual import RESIDUALS, PreNorm
from asr.nn.subsampling import SUBSAMPLINGS
from asr.nn.transformer import TransformerLayer

Chunk = tuple[int, int | None]
"""Frames that see each other, and how many such chunks before them they see too (None: all)."""

LAYERS: dict[str, type[Layer]] = {
    "conformer": ConformerLayer,
    "ebranchformer": EBranchformerLayer,
    "transformer": TransformerLayer,
}


def _layer(config: EncoderConfig, attention: AttentionConfig, depth: float) -> Layer:
    """A layer; ``depth`` is its number over the number of layers: later ones are dropped more often
    (Huang et al. 2016, eq. 4)."""
    residual = RESIDUALS[config.norm]

    def around(module: nn.Module, weight: float) -> PreNorm:
        drop_rate = config.stochastic_depth * depth
        return residual(module, config.dim, weight, config.layer_scale, drop_rate)

    heads = SelfAttention(build_attention(attention, config.dim), config.dropout)
    return LAYERS[config.kind](config, heads, around)


class Encoder(nn.Module):
    """(b, t, f) features and their lengths -> (b, ceil(t / subsampling), dim) and their lengths.

    Attributes:
        max_frames: frames that an utterance may have at most behind the subsampling; None: any number.
    """

    def __init__(self, config: EncoderConfig, attention: AttentionConfig, num_mels: int):
        super().__init__()
        self.subsampling = SUBSAMPLINGS[config.subsampling_kind](config, num_mels)
        self.factor = config.subsampling
        absolute = ABSOLUTE_POSITIONS.get(attention.position)
        self.position = None if absolute is None else absolute(attention.num_positions, config.dim)
        self.max_frames = attention.num_positions if attention.position == "learned" else None
        self.window, self.causal = attention.window or None, attention.causal
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            _layer(config, attention, (number + 1) / config.num_layers)
            for number in range(config.num_layers)
        )
        ends_in_norm = LAYERS[config.kind].ends_in_norm or config.norm == "post"
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
        memory: Memory | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the outputs of the layers of the numbers ``after`` (from 1), normalised as the last
        one's, then the last one's; and the lengths.

        Args:
            chunk: what attention sees within its window; None: all of that.
            memory: of a stream whose next frames these are; None: they are whole utterances.
        """
        x_btd, lens_b = self.subsampling(feats_btf, lens_b, memory)
        start = 0 if memory is None else memory.num_frames
        if self.position is not None:
            x_btd = self.position(x_btd, lens_b, start)
        x_btd = self.dropout(x_btd)
        kind = x_btd.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # as layers give it, whose norms compute in float32: one compiled graph serves them all
            x_btd = x_btd.float()
        padded = lens_b if memory is None else None  # all frames of a stream exist
        mask = Mask(
            key_lens=padded,
            query_lens=padded,
            causal=self.causal,
            window=self.window,
            chunk=chunk,
            q_start=start,
            k_start=start,
        )
        frames = Frames(frame_mask(lens_b, x_btd.shape[1]), mask, memory)
        outputs = []
        for number, layer in enumerate(self.layers, start=1):
            x_btd = layer(x_btd, frames)
            if number in after or number == len(self.layers):
                outputs.append(self.norm(x_btd))
        if memory is not None:
            memory.num_frames += x_btd.shape[1]
        return outputs, lens_b

    def stream(self, feats_btf: Tensor, chunk: Chunk, memory: Memory) -> Tensor:
        """(b, t, f), t at most a chunk's worth of features -> (b, ceil(t / subsampling), dim): what
        ``forward`` with the same chunk gives for these frames. A shorter t ends the stream."""
        num_feats = chunk[0] * self.factor
        if feats_btf.shape[1] > num_feats or memory.num_frames % chunk[0]:
            raise ValueError(
                f"feats_btf: got {feats_btf.shape[1]} frames after {memory.num_frames}, expected "
                f"{num_feats}, less only in the end"
            )
        lens_b = torch.full((len(feats_btf),), feats_btf.shape[1], device=feats_btf.device)
        return self.outputs(feats_btf, lens_b, chunk, memory=memory)[0][-1]

    def attention_backend(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return which backend serves the layers' attention on this device."""
        chosen = attentions(self.layers)[0].resolve(device, dtype)
        return f"{chosen.name} ({chosen.engine})"
