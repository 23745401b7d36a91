"""Conformer encoders of others and of ours at one size, blocks only: (b, t, d) frames and lengths in,
(b, t, d) out. Every utterance is as long as its batch, and nobody drops anything out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr import config
from asr.nn.encoder import Encoder

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Size:
    """Of all contenders."""

    layers: int = 12
    dim: int = 256
    heads: int = 4
    ff_dim: int = 1024
    kernel: int = 31


@dataclass(frozen=True)
class Contender:
    """``make`` gives the modules that are trained and how frames go through them; it raises
    ImportError where the library is missing."""

    name: str
    position: str
    is_ours: bool
    make: Callable[[Size], tuple[nn.Module, Run]]


def full_lens(x_btd: Tensor) -> Tensor:
    return torch.full((x_btd.shape[0],), x_btd.shape[1], device=x_btd.device)


class _Frames(nn.Module):
    """Stands where the subsampling is: frames come subsampled already."""

    def forward(self, x_btd: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
        return x_btd, lens_b


def ours(weighting: str, position: str) -> Contender:
    def make(size: Size) -> tuple[nn.Module, Run]:
        cfg = config.load(
            [],
            [
                f"encoder.num_layers={size.layers}",
                f"encoder.dim={size.dim}",
                f"encoder.ff_dim={size.ff_dim}",
                f"encoder.conv_kernel={size.kernel}",
                "encoder.dropout=0",
                f"attention.num_heads={size.heads}",
                f"attention.weighting={weighting}",
                f"attention.position={position}",
            ],
        )
        encoder = Encoder(cfg.encoder, cfg.attention, cfg.features.num_mels)
        encoder.subsampling = _Frames()  # type: ignore[assignment]
        return encoder, lambda x_btd: encoder(x_btd, full_lens(x_btd))[0]

    return Contender(f"ours {weighting} {position}", position, True, make)


def compiled(weighting: str, position: str) -> Contender:
    """Ours as ``train.compile`` makes it."""

    def make(size: Size) -> tuple[nn.Module, Run]:
        encoder, run = ours(weighting, position).make(size)
        assert isinstance(encoder, Encoder)
        for layer in encoder.layers:
            layer.compile(dynamic=True)
        return encoder, run

    return Contender(f"compiled {weighting} {position}", position, True, make)


def torchaudio_conformer(size: Size) -> tuple[nn.Module, Run]:
    from torchaudio.models import Conformer

    model = Conformer(size.dim, size.heads, size.ff_dim, size.layers, size.kernel)
    return model, lambda x_btd: model(x_btd, full_lens(x_btd))[0]


def speechbrain(attention_type: str) -> Callable[[Size], tuple[nn.Module, Run]]:
    def make(size: Size) -> tuple[nn.Module, Run]:
        from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
        from speechbrain.nnet.attention import RelPosEncXL

        encoder = ConformerEncoder(
            num_layers=size.layers,
            d_model=size.dim,
            d_ffn=size.ff_dim,
            nhead=size.heads,
            kernel_size=size.kernel,
            attention_type=attention_type,
        )
        positions = RelPosEncXL(size.dim)
        if attention_type == "RelPosMHAXL":
            return encoder, lambda x_btd: encoder(x_btd, pos_embs=positions(x_btd))[0]
        return encoder, lambda x_btd: encoder(x_btd)[0]

    return make


def parakeet(size: Size) -> tuple[nn.Module, Run]:
    from transformers import ParakeetEncoder, ParakeetEncoderConfig

    whole = ParakeetEncoder(
        ParakeetEncoderConfig(
            hidden_size=size.dim,
            num_attention_heads=size.heads,
            intermediate_size=size.ff_dim,
            conv_kernel_size=size.kernel,
            num_hidden_layers=size.layers,
            dropout=0.0,
            dropout_positions=0.0,
            layerdrop=0.0,
            activation_dropout=0.0,
            attention_dropout=0.0,
        )
    )
    layers, positions = whole.layers, whole.encode_positions

    def run(x_btd: Tensor) -> Tensor:
        embedded = positions(x_btd)
        for layer in layers:
            x_btd = layer(x_btd, position_embeddings=embedded)
        return x_btd

    return layers, run


def wav2vec2_conformer(position: str) -> Callable[[Size], tuple[nn.Module, Run]]:
    def make(size: Size) -> tuple[nn.Module, Run]:
        from transformers import Wav2Vec2ConformerConfig, Wav2Vec2ConformerModel

        whole = Wav2Vec2ConformerModel(
            Wav2Vec2ConformerConfig(
                hidden_size=size.dim,
                num_attention_heads=size.heads,
                intermediate_size=size.ff_dim,
                conv_depthwise_kernel_size=size.kernel,
                num_hidden_layers=size.layers,
                position_embeddings_type=position,
                hidden_act="silu",
                hidden_dropout=0.0,
                activation_dropout=0.0,
                attention_dropout=0.0,
                conformer_conv_dropout=0.0,
                layerdrop=0.0,
            )
        )
        layers, positions = whole.encoder.layers, whole.encoder.embed_positions

        def run(x_btd: Tensor) -> Tensor:
            embedded = positions(x_btd)
            for layer in layers:
                x_btd = layer(x_btd, relative_position_embeddings=embedded)
            return x_btd

        return layers, run

    return make


PEERS = [
    Contender("torchaudio Conformer", "none", False, torchaudio_conformer),
    Contender("SpeechBrain regularMHA", "none", False, speechbrain("regularMHA")),
    Contender("SpeechBrain RoPEMHA", "rope", False, speechbrain("RoPEMHA")),
    Contender("SpeechBrain RelPosMHAXL", "relative", False, speechbrain("RelPosMHAXL")),
    Contender("transformers Parakeet", "relative", False, parakeet),
    Contender(
        "transformers wav2vec2-conformer rotary", "rope", False, wav2vec2_conformer("rotary")
    ),
    Contender(
        "transformers wav2vec2-conformer relative",
        "relative",
        False,
        wav2vec2_conformer("relative"),
    ),
]
OURS = [
    ours(weighting, position)
    for weighting in ("softmax", "sigmoid")
    for position in ("none", "rope", "alibi", "relative")
]
ASKED_FOR = [compiled("sigmoid", "alibi")]
CONTENDERS = {c.name: c for c in PEERS + OURS + ASKED_FOR}
