"""The attention decoder against transformers' Whisper decoder and Speech2Text decoder with the same
random weights: hidden states, logits and gradients of the encoder's frames."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from asr.config import DecoderConfig
from asr.nn.decoder import CrossAttention, Decoder, DecoderLayer
from asr.nn.frames import Source, frame_mask
from asr.nn.modules import FeedForward, SelfAttention
from asr.nn.position import sinusoids

from .shared import (
    DIM,
    FF_DIM,
    HEADS,
    TOLERANCE,
    Projections,
    fill,
    fill_attention,
    fill_from,
    randomise,
)

pytest.importorskip("transformers", reason="transformers is not installed (Python 3.11 or newer)")

from transformers import PreTrainedConfig, Speech2TextConfig, WhisperConfig
from transformers.models.speech_to_text.modeling_speech_to_text import Speech2TextDecoder
from transformers.models.whisper.modeling_whisper import WhisperDecoder

VOCAB, LAYERS, NUM_TOKENS = 19, 3, 11
LENS = (23, 9)


def randomised(kind: type[nn.Module], config: PreTrainedConfig) -> nn.Module:
    """Their decoder, with the sizes of ours and random weights."""
    sizes = {
        "d_model": DIM,
        "decoder_layers": LAYERS,
        "decoder_attention_heads": HEADS,
        "decoder_ffn_dim": FF_DIM,
    }
    for name, value in sizes.items():
        setattr(config, name, value)
    config._attn_implementation = "eager"
    decoder = kind(config).eval()
    randomise(decoder)
    return decoder


def whisper() -> nn.Module:
    decoder = randomised(
        WhisperDecoder,
        WhisperConfig(
            vocab_size=VOCAB,
            max_target_positions=NUM_TOKENS,
            pad_token_id=0,
            activation_function="gelu",
        ),
    )
    with torch.no_grad():  # theirs are trained; ours are these
        decoder.embed_positions.weight.copy_(sinusoids(torch.arange(NUM_TOKENS), DIM))
    return decoder


def speech2text() -> nn.Module:
    return randomised(
        Speech2TextDecoder,
        Speech2TextConfig(
            vocab_size=VOCAB,
            max_target_positions=64,
            scale_embedding=True,
            pad_token_id=1,
            activation_function="silu",
        ),
    )


def projections(theirs: nn.Module) -> Projections:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    return Projections(*(theirs.get_submodule(name) for name in names))  # type: ignore[arg-type]


def fill_layer(ours: DecoderLayer, theirs: nn.Module) -> None:
    for name, norm in (
        ("self_attention", "self_attn_layer_norm"),
        ("cross_attention", "encoder_attn_layer_norm"),
        ("ff", "final_layer_norm"),
    ):
        fill_from(ours.get_submodule(name).norm, theirs.get_submodule(norm))
    own, across, ff = ours.self_attention.branch, ours.cross_attention.branch, ours.ff.branch
    assert isinstance(own, SelfAttention)
    assert isinstance(across, CrossAttention)
    assert isinstance(ff, FeedForward)
    fill_attention(own.attention, projections(theirs.get_submodule("self_attn")))
    other = projections(theirs.get_submodule("encoder_attn"))
    fill_from(across.project_q, other.q)
    fill_from(across.project_out, other.out)
    biases = [p.weight.new_zeros(DIM) if p.bias is None else p.bias for p in (other.k, other.v)]
    fill(across.project_kv, torch.cat([other.k.weight, other.v.weight]), torch.cat(biases))
    fill_from(ff.widen, theirs.get_submodule("fc1"))
    fill_from(ff.narrow, theirs.get_submodule("fc2"))


def ours_of(theirs: nn.Module, activation: str, embedding_scale: float) -> Decoder:
    config = DecoderConfig(
        num_layers=LAYERS,
        num_heads=HEADS,
        ff_dim=FF_DIM,
        activation=activation,
    )
    decoder = Decoder(config, "auto", DIM, VOCAB).eval()
    randomise(decoder.output)
    with torch.no_grad():
        decoder.embedding.weight.copy_(theirs.embed_tokens.weight * embedding_scale)
    for layer, other in zip(decoder.layers, theirs.layers, strict=True):
        assert isinstance(layer, DecoderLayer)
        fill_layer(layer, other)
    fill_from(decoder.norm, theirs.layer_norm)
    return decoder


def results(run: Callable[[Tensor], Tensor], frames_bsd: Tensor) -> tuple[Tensor, Tensor]:
    """What a decoder gives, and the gradient of the frames for a fixed direction."""
    leaf_bsd = frames_bsd.clone().requires_grad_()
    logits_buv = run(leaf_bsd)
    torch.manual_seed(2)
    logits_buv.backward(torch.randn_like(logits_buv))
    assert leaf_bsd.grad is not None
    return logits_buv.detach(), leaf_bsd.grad


@pytest.mark.parametrize("name", ["whisper", "speech2text"])
def test_a_whole_decoder_gives_what_theirs_gives(name: str) -> None:
    torch.manual_seed(1)
    theirs: nn.Module
    if name == "whisper":
        theirs, ours = (one := whisper()), ours_of(one, "gelu", DIM**-0.5)
    else:
        theirs, ours = (other := speech2text()), ours_of(other, "silu", 1.0)
        # theirs counts tokens from 2 and spreads sines over another base of exponents
        table_pd = sinusoids(torch.arange(64 + 2), DIM)
        theirs.embed_positions.weights = torch.cat([table_pd[:2], table_pd])[: 64 + 2].float()
    lens_b = torch.tensor(LENS)
    frames_bsd = torch.randn(len(LENS), max(LENS), DIM)
    tokens_bu = torch.randint(2, VOCAB, (len(LENS), NUM_TOKENS))
    exist_bs = frame_mask(lens_b, max(LENS))

    def run_theirs(leaf_bsd: Tensor) -> Tensor:
        if name == "whisper":  # it knows no padding of frames: each utterance by itself
            rows = [
                theirs(tokens_bu[row : row + 1], encoder_hidden_states=leaf_bsd[row : row + 1, :n])
                for row, n in enumerate(LENS)
            ]
            hidden_bud = torch.cat([row.last_hidden_state for row in rows])
        else:
            hidden_bud = theirs(
                tokens_bu, encoder_hidden_states=leaf_bsd, encoder_attention_mask=exist_bs.long()
            ).last_hidden_state
        logits_buv: Tensor = ours.output(hidden_bud)
        return logits_buv

    found = results(lambda leaf_bsd: ours(tokens_bu, Source(leaf_bsd, lens_b)), frames_bsd)
    expected = results(run_theirs, frames_bsd)
    for one, other_one in zip(found, expected, strict=True):
        assert float((one - other_one).abs().max() / other_one.abs().max()) < TOLERANCE
    assert math.isfinite(float(expected[1].sum()))
