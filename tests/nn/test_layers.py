"""Layers against PyTorch's and torchaudio's own with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from sigmoid_attention import Mask
from torch import nn

from asr.config import AttentionConfig, EncoderConfig
from asr.nn.attention import build_attention, frame_mask
from asr.nn.dropout import Dropout
from asr.nn.encoder import Encoder
from asr.nn.subsampling import Subsampling4, subsampled
from asr.nn.transformer import TransformerLayer


def _softmax_attention(dim: int, num_heads: int):  # type: ignore[no-untyped-def]
    return build_attention(AttentionConfig("softmax", "none", num_heads, "auto"), dim)


def test_transformer_layer_equals_pytorchs_with_copied_weights() -> None:
    torch.manual_seed(0)
    dim, ff_dim, lens = 16, 32, torch.tensor([9, 5])
    theirs = nn.TransformerEncoderLayer(
        dim, 4, ff_dim, 0.0, nn.functional.silu, batch_first=True, norm_first=True
    )
    ours = TransformerLayer(_softmax_attention(dim, 4), dim, ff_dim, 0.0)
    pairs = {
        ours.attention.project_qkv: (
            theirs.self_attn.in_proj_weight,
            theirs.self_attn.in_proj_bias,
        ),
        ours.attention.project_out: _both(theirs.self_attn.out_proj),
        ours.attention_norm: _both(theirs.norm1),
        ours.ff[0]: _both(theirs.norm2),
        ours.ff[1]: _both(theirs.linear1),
        ours.ff[4]: _both(theirs.linear2),
    }
    with torch.no_grad():
        for mine, (weight, bias) in pairs.items():
            mine.weight.copy_(weight)
            mine.bias.copy_(bias)
    x_btd = torch.randn(2, 9, dim)
    frames_bt = frame_mask(lens, 9)
    expected = theirs(x_btd, src_key_padding_mask=~frames_bt)
    got = ours(x_btd, Mask(key_lens=lens, query_lens=lens), frames_bt)
    torch.testing.assert_close(got[frames_bt], expected[frames_bt], atol=1e-5, rtol=1e-5)


def test_conformer_layer_equals_torchaudios_with_copied_weights() -> None:
    """Theirs with group norm of one group replaced by ours per frame is not the same function, so the
    convolution's norm is made the identity on both sides; everything else is compared."""
    torch.manual_seed(1)
    dim, ff_dim, kernel, lens = 16, 32, 5, torch.tensor([9, 6])
    theirs = torchaudio.models.conformer.ConformerLayer(dim, ff_dim, 4, kernel, 0.0).eval()
    theirs.conv_module.sequential[3] = nn.Identity()
    config = EncoderConfig("conformer", 1, dim, ff_dim, kernel, "layernorm", 4, 0.0)
    ours = Encoder(config, AttentionConfig("softmax", "none", 4, "auto"), 80).layers[0]
    ours.convolution.depthwise_norm = nn.Identity()
    conv = theirs.conv_module.sequential
    pairs = {
        ours.attention.project_qkv: (
            theirs.self_attn.in_proj_weight,
            theirs.self_attn.in_proj_bias,
        ),
        ours.attention.project_out: _both(theirs.self_attn.out_proj),
        ours.attention_norm: _both(theirs.self_attn_layer_norm),
        ours.convolution.norm: _both(theirs.conv_module.layer_norm),
        ours.convolution.widen: (conv[0].weight[..., 0], conv[0].bias),
        ours.convolution.depthwise: (conv[2].weight[:, :, None], conv[2].bias),
        ours.convolution.narrow: (conv[5].weight[..., 0], conv[5].bias),
        ours.norm: _both(theirs.final_layer_norm),
    }
    for mine, other in ((ours.ff_before, theirs.ffn1), (ours.ff_after, theirs.ffn2)):
        for place in (0, 1, 4):
            pairs[mine[place]] = _both(other.sequential[place])
    with torch.no_grad():
        for mine, (weight, bias) in pairs.items():
            mine.weight.copy_(weight)
            mine.bias.copy_(bias)
    x_btd = torch.randn(2, 9, dim)
    for row, length in enumerate(lens.tolist()):
        # torchaudio's layer lets padding into its convolution, so each utterance goes alone
        alone = x_btd[row : row + 1, :length]
        expected = theirs(alone.transpose(0, 1), None).transpose(0, 1)
        frames_bt = frame_mask(lens, 9)
        got = ours(x_btd, Mask(key_lens=lens, query_lens=lens), frames_bt)[row : row + 1, :length]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def _both(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight, module.bias  # type: ignore[return-value]


@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 4, 5, 8, 9, 63])
def test_subsampling_counts_its_frames_and_ignores_padding(num_frames: int) -> None:
    torch.manual_seed(2)
    module = Subsampling4(num_mels=20, channels=3, dim=8)
    padded = torch.full((2, 70, 20), float("nan"))
    padded[0, :num_frames] = torch.randn(num_frames, 20)
    padded[1] = 0.0
    out_btd, lens_b = module(padded, torch.tensor([num_frames, 70]))
    assert lens_b[0] == subsampled(num_frames) == math.ceil(math.ceil(num_frames / 2) / 2)
    alone_btd, _ = module(padded[:1, : max(num_frames, 1)], torch.tensor([num_frames]))
    length = int(lens_b[0])
    torch.testing.assert_close(out_btd[0, :length], alone_btd[0, :length])
    assert out_btd[0, :length].isfinite().all()


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    torch.manual_seed(3)
    dropout = Dropout(0.1)
    x = torch.ones(1001, 999, requires_grad=True)
    y = dropout(x)
    dropped = float((y == 0).float().mean())
    # 26/256 with a binomial deviation of 0.0003
    assert dropped == pytest.approx(26 / 256, abs=0.0015)
    assert float(y.detach().mean()) == pytest.approx(1.0, abs=0.0015)
    assert y.detach().unique().tolist() == pytest.approx([0.0, 256 / 230])
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    # the eight bytes of one draw are independent of each other
    kept = (y.detach().flatten()[:999_992].view(-1, 8) > 0).float()
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert float(correlation.abs().max()) < 0.015


def test_dropout_off_is_the_identity() -> None:
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
    with pytest.raises(ValueError, match="rate"):
        Dropout(1.0)
