"""Subsampling and a stack of layers: features in, one vector per subsampled frame out."""

from __future__ import annotations

import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.config import AttentionConfig, EncoderConfig
from asr.nn.attention import MultiHeadAttention, build_attention, frame_mask
from asr.nn.conformer import ConformerLayer
from asr.nn.dropout import Dropout
from asr.nn.subsampling import Subsampling4
from asr.nn.transformer import TransformerLayer


def _conformer_layer(config: EncoderConfig, attention: AttentionConfig) -> nn.Module:
    return ConformerLayer(
        build_attention(attention, config.dim),
        config.dim,
        config.ff_dim,
        config.conv_kernel,
        config.conv_norm,
        config.dropout,
    )


def _transformer_layer(config: EncoderConfig, attention: AttentionConfig) -> nn.Module:
    return TransformerLayer(
        build_attention(attention, config.dim), config.dim, config.ff_dim, config.dropout
    )


LAYERS = {"conformer": _conformer_layer, "transformer": _transformer_layer}


class Encoder(nn.Module):
    """(b, t, f) features and their lengths -> (b, ceil(t / 4), dim) and their lengths."""

    def __init__(self, config: EncoderConfig, attention: AttentionConfig, num_mels: int):
        super().__init__()
        self.subsampling = Subsampling4(num_mels, config.subsampling_channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(
            LAYERS[config.kind](config, attention) for _ in range(config.num_layers)
        )
        # a Conformer layer ends in a norm of its own
        self.norm = nn.Identity() if config.kind == "conformer" else nn.LayerNorm(config.dim)

    def forward(self, feats_btf: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        x_btd, lens_b = self.subsampling(feats_btf, lens_b)
        x_btd = self.dropout(x_btd)
        frames_bt = frame_mask(lens_b, x_btd.shape[1])
        mask = Mask(key_lens=lens_b, query_lens=lens_b)
        for layer in self.layers:
            x_btd = layer(x_btd, mask, frames_bt)
        return self.norm(x_btd), lens_b

    def attention_backend(self, device: torch.device, dtype: torch.dtype) -> str:
        """Which backend serves the layers' attention on this device."""
        attention = self.layers[0].get_submodule("attention")
        assert isinstance(attention, MultiHeadAttention)
        chosen = attention.resolve(device, dtype)
        return f"{chosen.name} ({chosen.engine})"
