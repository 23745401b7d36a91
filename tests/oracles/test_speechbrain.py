"""The Conformer layer and the E-Branchformer's gated convolution against SpeechBrain's, whose
convolutions have a norm per frame as ours have: nothing is exchanged but the weights. Outputs and
input gradients; the largest difference seen was 4e-7."""

from __future__ import annotations

import sys

import pytest
import torch
from sigmoid_attention import Mask
from torch import Tensor

from asr.nn.conformer import ConformerLayer, Convolution
from asr.nn.ebranchformer import GatedConvolution
from asr.nn.frames import Frames, frame_mask

from .shared import (
    DIM,
    FF_DIM,
    HEADS,
    KERNEL,
    TOLERANCE,
    difference,
    fill,
    fill_from,
    fill_relative,
    heads_of,
    one_by_one,
    our_layer,
    randomise,
    whole,
)

pytest.importorskip("speechbrain", reason="extra `oracles` not installed")

from speechbrain.lobes.models.transformer.Branchformer import ConvolutionBranch
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer

# its import lowers the precision of matrix products, for everybody
torch.set_float32_matmul_precision("highest")
# SpeechBrain leaves modules behind whose mere inspection imports packages that are not here; pytest,
# hypothesis and torch inspect every module there is
for name, module in list(sys.modules.items()):
    if type(module).__module__ == "speechbrain.utils.importutils":
        del sys.modules[name]

TYPES = {"none": "regularMHA", "rope": "RoPEMHA", "relative": "RelPosMHAXL"}


def speechbrain_layer(position: str) -> ConformerEncoderLayer:
    torch.manual_seed(0)
    layer = ConformerEncoderLayer(
        DIM, FF_DIM, HEADS, kernel_size=KERNEL, attention_type=TYPES[position]
    ).eval()
    randomise(layer)
    if position != "none":
        # they divide by the root of the whole width; the papers and we by that of a head's
        layer.mha_layer.scale = (DIM // HEADS) ** -0.5
    return layer


def relative_embeddings(frames: int) -> Tensor:
    """(1, 2 t - 1, d) of query minus key, falling. Their own gives the keys on the right the sines of
    those on the left, so that the sign of an offset is lost; the paper's definition is fed instead."""
    offsets_p = torch.arange(frames - 1, -frames, -1).double()
    angles_pi = torch.outer(offsets_p, 10000.0 ** -(torch.arange(0, DIM, 2).double() / DIM))
    return torch.stack([angles_pi.sin(), angles_pi.cos()], dim=-1).flatten(1)[None].float()


def per_head(weight: Tensor, position: str) -> Tensor:
    """Theirs has q, k, v of the first head, then of the second, ...; ours all q, then all k, all v.
    Their rotary pairs neighbouring channels, ours the two halves of a head."""
    q_k_v = weight.unflatten(0, (HEADS, 3, DIM // HEADS)).transpose(0, 1)
    if position == "rope":
        halves = torch.cat([q_k_v[:2, :, 0::2], q_k_v[:2, :, 1::2]], dim=2)
        q_k_v = torch.cat([halves, q_k_v[2:]])
    return q_k_v.flatten(0, 2)


def fill_layer(ours: ConformerLayer, theirs: ConformerEncoderLayer, position: str) -> None:
    attention = theirs.mha_layer
    if position == "none":
        fill(heads_of(ours).project_qkv, attention.att.in_proj_weight, attention.att.in_proj_bias)
        fill_from(heads_of(ours).project_out, attention.att.out_proj)
    else:
        fill(heads_of(ours).project_qkv, per_head(attention.in_proj_weight, position), None)
        fill_from(heads_of(ours).project_out, attention.out_proj)
    if position == "relative":
        # declared (channel, head), used as (head, channel)
        u_hd, v_hd = (
            x.view(HEADS, DIM // HEADS) for x in (attention.pos_bias_u, attention.pos_bias_v)
        )
        fill_relative(heads_of(ours).position, attention.linear_pos.weight, u_hd, v_hd)
    for mine, other in ((ours.ff_before, theirs.ffn_module1), (ours.ff_after, theirs.ffn_module2)):
        fill_from(mine.norm, other[0])
        fill_from(mine.branch.get_submodule("widen"), other[1].ffn[0])
        fill_from(mine.branch.get_submodule("narrow"), other[1].ffn[3])
    fill_from(ours.attention.norm, theirs.norm1.norm)
    fill_from(ours.norm, theirs.norm2.norm)
    convolution, other = ours.convolution.branch, theirs.convolution_module
    assert isinstance(convolution, Convolution)
    fill_from(ours.convolution.norm, other.layer_norm)
    fill(convolution.widen, other.bottleneck[0].weight[..., 0], other.bottleneck[0].bias)
    fill(convolution.depthwise, other.conv.weight[:, :, None], other.conv.bias)
    fill_from(convolution.depthwise_norm, other.after_conv[0])
    fill_from(convolution.narrow, other.after_conv[2])


@pytest.mark.parametrize("position", sorted(TYPES))
def test_conformer_layer_is_speechbrains(position: str) -> None:
    """Their padding enters the convolution, so there each utterance goes alone; ours takes them as a
    batch."""
    layer, ours = speechbrain_layer(position), our_layer(position)
    fill_layer(ours, layer, position)

    def theirs(x_btd: Tensor) -> Tensor:
        embedded = relative_embeddings(x_btd.shape[1]) if position == "relative" else None
        out_btd: Tensor = layer(x_btd, pos_embs=embedded)[0]
        return out_btd

    assert difference(whole(ours), one_by_one(theirs)) < TOLERANCE


def test_gated_convolution_is_speechbrains() -> None:
    torch.manual_seed(0)
    theirs = ConvolutionBranch(DIM, 3 * DIM, KERNEL).eval()
    ours = GatedConvolution(DIM, 3 * DIM, KERNEL, dropout=0.0, causal=False)
    torch.testing.assert_close(ours.depthwise.bias, theirs.csgu.conv.conv.bias)
    randomise(theirs)
    fill_from(ours.widen, theirs.pre_channel_proj)
    fill_from(ours.gate_norm, theirs.csgu.norm.norm)
    fill(ours.depthwise, theirs.csgu.conv.conv.weight[:, :, None], theirs.csgu.conv.conv.bias)
    fill_from(ours.narrow, theirs.post_channel_proj)

    def run(x_btd: Tensor, lens_b: Tensor) -> Tensor:
        frames = Frames(frame_mask(lens_b, x_btd.shape[1]), Mask())
        out_btd: Tensor = ours(x_btd, frames)
        return out_btd

    # theirs mirrors the frames at the ends where the paper and ours have zeros
    theirs.csgu.conv.padding_mode = "constant"
    theirs.csgu.conv.padding = "same"
    assert difference(run, one_by_one(theirs)) < TOLERANCE
