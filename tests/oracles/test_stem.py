"""An encoder with convolutions over time and learned positions, and a decoder whose embedding is its
output projection, against transformers' Whisper with the same random weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asr import config
from asr.nn.decoder import Decoder, DecoderLayer
from asr.nn.encoder import Encoder
from asr.nn.frames import Source
from asr.nn.modules import FeedForward, SelfAttention
from asr.nn.position import Learned

from .shared import DIM, FF_DIM, HEADS, TOLERANCE, fill_attention, fill_from, randomise

pytest.importorskip("transformers", reason="transformers is not installed (Python 3.11 or newer)")

from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperModel

from .test_decoder import fill_layer, projections

NUM_MELS, LAYERS, VOCAB, FRAMES, TOKENS = 80, 2, 19, 30, 12


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(1)
    sizes = WhisperConfig(
        vocab_size=VOCAB,
        num_mel_bins=NUM_MELS,
        d_model=DIM,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FF_DIM,
        decoder_ffn_dim=FF_DIM,
        max_source_positions=FRAMES,
        max_target_positions=TOKENS,
        pad_token_id=0,
    )
    sizes._attn_implementation = "eager"
    model = WhisperModel(sizes).eval()
    randomise(model)
    return model


@pytest.fixture(scope="module")
def options() -> config.Config:
    return config.load(
        [],
        [
            *("encoder.kind=transformer", f"encoder.dim={DIM}", f"encoder.ff_dim={FF_DIM}"),
            *(f"encoder.num_layers={LAYERS}", "encoder.activation=gelu"),
            *("encoder.subsampling_kind=conv1d", "encoder.subsampling=2"),
            *("attention.weighting=softmax", f"attention.num_heads={HEADS}"),
            *("attention.position=learned", f"attention.num_positions={FRAMES}"),
            *("model.heads=[attention]", f"decoder.num_layers={LAYERS}", "decoder.activation=gelu"),
            *(
                f"decoder.num_heads={HEADS}",
                f"decoder.ff_dim={FF_DIM}",
                "decoder.tie_embeddings=true",
            ),
            *("decoder.position=learned", f"decoder.num_positions={TOKENS}"),
        ],
    )


def copy_positions(ours: nn.Module | None, theirs: nn.Module) -> None:
    assert isinstance(ours, Learned)
    with torch.no_grad():
        ours.table_pd.copy_(theirs.get_parameter("weight"))


def encoder_of(options: config.Config, theirs: nn.Module) -> Encoder:
    ours = Encoder(options.encoder, options.attention, NUM_MELS).eval()
    for one, name in zip(ours.subsampling.convolutions, ("conv1", "conv2"), strict=True):
        fill_from(one, theirs.get_submodule(name))
    copy_positions(ours.position, theirs.get_submodule("embed_positions"))
    for number, layer in enumerate(ours.layers):
        other = theirs.get_submodule(f"layers.{number}")
        fill_from(layer.attention.norm, other.get_submodule("self_attn_layer_norm"))
        fill_from(layer.ff.norm, other.get_submodule("final_layer_norm"))
        attention, ff = layer.attention.branch, layer.ff.branch
        assert isinstance(attention, SelfAttention)
        assert isinstance(ff, FeedForward)
        fill_attention(attention.attention, projections(other.get_submodule("self_attn")))
        fill_from(ff.widen, other.get_submodule("fc1"))
        fill_from(ff.narrow, other.get_submodule("fc2"))
    fill_from(ours.norm, theirs.get_submodule("layer_norm"))
    return ours


def decoder_of(options: config.Config, theirs: nn.Module) -> Decoder:
    ours = Decoder(options.decoder, "auto", DIM, VOCAB).eval()
    with torch.no_grad():
        ours.embedding.weight.copy_(theirs.get_parameter("embed_tokens.weight"))
    copy_positions(ours.position, theirs.get_submodule("embed_positions"))
    for number, layer in enumerate(ours.layers):
        assert isinstance(layer, DecoderLayer)
        fill_layer(layer, theirs.get_submodule(f"layers.{number}"))
    fill_from(ours.norm, theirs.get_submodule("layer_norm"))
    return ours


def close(found: Tensor, expected: Tensor) -> bool:
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max()) < TOLERANCE


def test_the_whole_encoder_gives_what_theirs_gives(
    theirs: nn.Module, options: config.Config
) -> None:
    ours = encoder_of(options, theirs.get_submodule("encoder"))
    feats_btf = torch.randn(2, 2 * FRAMES, NUM_MELS)
    found_btd, lens_b = ours(feats_btf, torch.tensor([2 * FRAMES] * 2))
    expected_btd = theirs.get_submodule("encoder")(feats_btf.transpose(1, 2)).last_hidden_state
    assert lens_b.tolist() == [FRAMES] * 2
    assert close(found_btd, expected_btd)


def test_what_is_padded_is_as_alone(theirs: nn.Module, options: config.Config) -> None:
    ours = encoder_of(options, theirs.get_submodule("encoder"))
    feats_btf = torch.full((2, 2 * FRAMES, NUM_MELS), float("nan"))
    feats_btf[0] = torch.randn(2 * FRAMES, NUM_MELS)
    feats_btf[1, :21] = torch.randn(21, NUM_MELS)
    both_btd, lens_b = ours(feats_btf, torch.tensor([2 * FRAMES, 21]))
    alone_btd, _ = ours(feats_btf[1:, :21], torch.tensor([21]))
    assert lens_b.tolist() == [FRAMES, 11]
    torch.testing.assert_close(both_btd[1:, :11], alone_btd)


def test_logits_of_the_tied_decoder_are_theirs(theirs: nn.Module, options: config.Config) -> None:
    ours = decoder_of(options, theirs.get_submodule("decoder"))
    frames_bsd, lens_b = torch.randn(2, FRAMES, DIM), torch.tensor([FRAMES] * 2)
    tokens_bu = torch.randint(2, VOCAB, (2, TOKENS))
    hidden_bud = theirs.get_submodule("decoder")(
        tokens_bu, encoder_hidden_states=frames_bsd
    ).last_hidden_state
    expected_buv = hidden_bud @ theirs.get_parameter("decoder.embed_tokens.weight").T
    assert close(ours(tokens_bu, Source(frames_bsd, lens_b)), expected_buv)
