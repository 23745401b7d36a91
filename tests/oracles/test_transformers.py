"""Attention and Conformer layers against Hugging Face transformers' with the same random weights:
Parakeet (NVIDIA's FastConformer encoder) and wav2vec2-conformer. Outputs and input gradients; the
largest difference seen was 7e-7."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from asr.nn.conformer import ConformerLayer, Convolution
from asr.nn.frames import frame_mask
from asr.nn.position import Rope
from asr.nn.residual import PreNorm

from .shared import (
    DIM,
    FF_DIM,
    HEADS,
    KERNEL,
    TOLERANCE,
    Affine,
    Projections,
    attention_of,
    difference,
    fill,
    fill_attention,
    fill_from,
    fill_relative,
    heads_of,
    one_by_one,
    our_layer,
    randomise,
    whole,
)

pytest.importorskip("transformers", reason="transformers is not installed (Python 3.11 or newer)")

from transformers import ParakeetEncoderConfig, Wav2Vec2ConformerConfig
from transformers.models.parakeet import modeling_parakeet as parakeet
from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as w2v2


@pytest.fixture
def nemo() -> parakeet.ParakeetEncoderBlock:
    """Parakeet's block with a bias wherever ours has one."""
    torch.manual_seed(0)
    cfg = ParakeetEncoderConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=FF_DIM,
        conv_kernel_size=KERNEL,
        attention_bias=True,
        convolution_bias=True,
    )
    cfg._attn_implementation = "eager"
    block = parakeet.ParakeetEncoderBlock(cfg, 0).eval()
    randomise(block)
    return block


def w2v2_config(position: str) -> Wav2Vec2ConformerConfig:
    cfg = Wav2Vec2ConformerConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        intermediate_size=FF_DIM,
        conv_depthwise_kernel_size=KERNEL,
        position_embeddings_type=position,
        hidden_act="silu",
        max_source_positions=100,
    )
    cfg._attn_implementation = "eager"
    return cfg


def w2v2_layer(position: str) -> w2v2.Wav2Vec2ConformerEncoderLayer:
    torch.manual_seed(0)
    layer = w2v2.Wav2Vec2ConformerEncoderLayer(w2v2_config(position)).eval()
    randomise(layer)
    return layer


def nemo_mask(x_btd: Tensor, lens_b: Tensor) -> Tensor:
    """(b, 1, t, t) bool: existing queries see existing keys."""
    frames_bt = frame_mask(lens_b, x_btd.shape[1])
    return (frames_bt[:, :, None] & frames_bt[:, None, :])[:, None]


def w2v2_mask(x_btd: Tensor, lens_b: Tensor) -> Tensor:
    """(b, 1, 1, t): what their mask adds to the scores."""
    hidden_bt = ~frame_mask(lens_b, x_btd.shape[1])
    return hidden_bt[:, None, None].float() * torch.finfo(torch.float32).min


def fill_from_nemo_attention(
    ours: ConformerLayer, theirs: parakeet.ParakeetEncoderAttention
) -> None:
    fill_attention(
        heads_of(ours), Projections(theirs.q_proj, theirs.k_proj, theirs.v_proj, theirs.o_proj)
    )
    w_r = theirs.relative_k_proj.weight
    fill_relative(heads_of(ours).position, w_r, theirs.bias_u, theirs.bias_v)


def fill_from_w2v2_attention(
    ours: ConformerLayer, theirs: w2v2.Wav2Vec2ConformerSelfAttention
) -> None:
    fill_attention(
        heads_of(ours),
        Projections(theirs.linear_q, theirs.linear_k, theirs.linear_v, theirs.linear_out),
    )
    if theirs.position_embeddings_type == "relative":
        w_r = theirs.linear_pos.weight
        fill_relative(heads_of(ours).position, w_r, theirs.pos_bias_u, theirs.pos_bias_v)


def fill_ff(ours: PreNorm, norm: nn.Module, widen: nn.Module, narrow: nn.Module) -> None:
    fill_from(ours.norm, norm)
    fill_from(ours.branch.get_submodule("widen"), widen)
    fill_from(ours.branch.get_submodule("narrow"), narrow)


def fill_convolution(ours: ConformerLayer, norm: nn.Module, theirs: nn.Module) -> None:
    """``theirs`` has the same names in both models but for the batch norm."""
    convolution = ours.convolution.branch
    assert isinstance(convolution, Convolution)
    fill_from(ours.convolution.norm, norm)
    widen, depthwise, narrow = (
        theirs.get_submodule(name)
        for name in ("pointwise_conv1", "depthwise_conv", "pointwise_conv2")
    )
    for mine, other in ((convolution.widen, widen), (convolution.narrow, narrow)):
        fill(mine, other.get_parameter("weight")[..., 0], other._parameters.get("bias"))
    depthwise_weight = depthwise.get_parameter("weight")
    fill(convolution.depthwise, depthwise_weight[:, :, None], depthwise._parameters.get("bias"))
    (batch_norm,) = (part for part in theirs.modules() if isinstance(part, nn.BatchNorm1d))
    convolution.depthwise_norm = Affine(batch_norm)


def test_relative_attention_is_parakeets(nemo: parakeet.ParakeetEncoderBlock) -> None:
    ours = our_layer("relative")
    fill_from_nemo_attention(ours, nemo.self_attn)
    positions = parakeet.ParakeetEncoderRelPositionalEncoding(nemo.self_attn.config)

    def theirs(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd: Tensor = nemo.self_attn(x_btd, positions(x_btd), nemo_mask(x_btd, lens_b))[0]
        return out_btd

    assert difference(attention_of(ours), theirs) < TOLERANCE


def test_conformer_layer_is_parakeets(nemo: parakeet.ParakeetEncoderBlock) -> None:
    """Ragged, through their mask of attention and convolution."""
    ours = our_layer("relative")
    fill_from_nemo_attention(ours, nemo.self_attn)
    fill_from(ours.attention.norm, nemo.norm_self_att)
    first, second = nemo.feed_forward1, nemo.feed_forward2
    fill_ff(ours.ff_before, nemo.norm_feed_forward1, first.linear1, first.linear2)
    fill_ff(ours.ff_after, nemo.norm_feed_forward2, second.linear1, second.linear2)
    fill_convolution(ours, nemo.norm_conv, nemo.conv)
    fill_from(ours.norm, nemo.norm_out)
    positions = parakeet.ParakeetEncoderRelPositionalEncoding(nemo.self_attn.config)

    def theirs(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd: Tensor = nemo(x_btd, nemo_mask(x_btd, lens_b), positions(x_btd))
        return out_btd

    assert difference(whole(ours), theirs) < TOLERANCE


def fill_from_w2v2_layer(ours: ConformerLayer, theirs: w2v2.Wav2Vec2ConformerEncoderLayer) -> None:
    fill_from_w2v2_attention(ours, theirs.self_attn)
    fill_from(ours.attention.norm, theirs.self_attn_layer_norm)
    first, second = theirs.ffn1, theirs.ffn2
    fill_ff(ours.ff_before, theirs.ffn1_layer_norm, first.intermediate_dense, first.output_dense)
    fill_ff(ours.ff_after, theirs.ffn2_layer_norm, second.intermediate_dense, second.output_dense)
    fill_convolution(ours, theirs.conv_module.layer_norm, theirs.conv_module)
    fill_from(ours.norm, theirs.final_layer_norm)


def test_relative_attention_is_wav2vec2_conformers() -> None:
    layer, ours = w2v2_layer("relative"), our_layer("relative")
    fill_from_w2v2_attention(ours, layer.self_attn)
    positions = w2v2.Wav2Vec2ConformerRelPositionalEmbedding(w2v2_config("relative"))

    def theirs(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd: Tensor = layer.self_attn(x_btd, w2v2_mask(x_btd, lens_b), positions(x_btd))[0]
        return out_btd

    assert difference(attention_of(ours), theirs) < TOLERANCE


def test_attention_without_position_is_wav2vec2_conformers() -> None:
    layer, ours = w2v2_layer("none"), our_layer("none")
    fill_from_w2v2_attention(ours, layer.self_attn)

    def theirs(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd: Tensor = layer.self_attn(x_btd, w2v2_mask(x_btd, lens_b))[0]
        return out_btd

    assert difference(attention_of(ours), theirs) < TOLERANCE


def test_rotary_attention_is_wav2vec2_conformers() -> None:
    """They turn the input and project it afterwards, we turn projected queries and keys: the same
    where those projections are the identity."""
    layer, ours = w2v2_layer("rotary"), our_layer("rope")
    for projection in (layer.self_attn.linear_q, layer.self_attn.linear_k):
        nn.init.eye_(projection.weight)
        nn.init.zeros_(projection.bias)
    fill_from_w2v2_attention(ours, layer.self_attn)
    positions = w2v2.Wav2Vec2ConformerRotaryPositionalEmbedding(w2v2_config("rotary"))

    def theirs(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        out_btd: Tensor = layer.self_attn(x_btd, w2v2_mask(x_btd, lens_b), positions(x_btd))[0]
        return out_btd

    assert difference(attention_of(ours), theirs) < TOLERANCE


def test_rotary_turns_queries_and_keys_as_parakeets_family_does() -> None:
    """Their function on queries and keys of any values; theirs counts from frame 0."""
    torch.manual_seed(1)
    head_dim, frames = DIM // HEADS, 50
    q_bhtd, k_bhtd = torch.randn(2, 2, HEADS, frames, head_dim)
    angles_ti = torch.outer(
        torch.arange(frames).double(), 10000.0 ** -(torch.arange(0, head_dim, 2) / head_dim)
    )
    cos_btd, sin_btd = (f(angles_ti).repeat(1, 2)[None].float() for f in (torch.cos, torch.sin))
    theirs = parakeet.apply_rotary_pos_emb(q_bhtd, k_bhtd, cos_btd, sin_btd)
    ours = Rope(head_dim)(q_bhtd, k_bhtd, 0, 0)[:2]
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("position", ["relative", "none"])
def test_conformer_layer_is_wav2vec2_conformers(position: str) -> None:
    """Their convolution does not know of padding, so there each utterance goes alone; ours takes them
    as a batch."""
    layer, ours = w2v2_layer(position), our_layer(position)
    fill_from_w2v2_layer(ours, layer)
    positions = w2v2.Wav2Vec2ConformerRelPositionalEmbedding(w2v2_config("relative"))

    def theirs(x_btd: Tensor) -> Tensor:
        embedded = positions(x_btd) if position == "relative" else None
        out_btd: Tensor = layer(x_btd, relative_position_embeddings=embedded)
        return out_btd

    assert difference(whole(ours), one_by_one(theirs)) < TOLERANCE
