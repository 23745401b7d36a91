"""Layers against PyTorch's and torchaudio's own with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchaudio
from sigmoid_attention import Mask
from torch import nn

from asr.config import AttentionConfig, EncoderConfig
from asr.config.kinds import ENCODERS, OWN_OPTIONS
from asr.errors import InputError
from asr.nn.attention import build_attention
from asr.nn.encoder import Encoder
from asr.nn.frames import Frames, Memory, frame_mask
from asr.nn.residual import PostNorm, PreNorm
from asr.nn.subsampling import Subsampling, subsampled

SOFTMAX = AttentionConfig("softmax", "none", 4)


def layer(dim: int, ff_dim: int, kind: str, kernel: int = 5, norm: str = "pre") -> nn.Module:
    config = EncoderConfig(
        kind, 1, dim, ff_dim, kernel, norm=norm, subsampling_channels=4, dropout=0.0
    )
    return Encoder(config, SOFTMAX, 80).layers[0]


def pytorchs_transformer_layer(ours: nn.Module, norm: str = "pre") -> nn.TransformerEncoderLayer:
    """A layer of PyTorch with a copy of its weights drawn anew for ours too."""
    dim, ff_dim = 16, 32
    theirs = nn.TransformerEncoderLayer(
        dim, 4, ff_dim, 0.0, nn.functional.silu, batch_first=True, norm_first=norm == "pre"
    )
    heads = ours.attention.branch.attention
    pairs = {
        heads.project_qkv: (theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias),
        heads.project_out: _both(theirs.self_attn.out_proj),
        ours.attention.norm: _both(theirs.norm1),
        ours.ff.norm: _both(theirs.norm2),
        ours.ff.branch.widen: _both(theirs.linear1),
        ours.ff.branch.narrow: _both(theirs.linear2),
    }
    with torch.no_grad():
        for mine, (weight, bias) in pairs.items():
            mine.weight.copy_(weight)
            mine.bias.copy_(bias)
    return theirs


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_transformer_layer_equals_pytorchs_with_copied_weights(norm: str) -> None:
    torch.manual_seed(0)
    ours, lens = layer(16, 32, "transformer", norm=norm), torch.tensor([9, 5])
    theirs = pytorchs_transformer_layer(ours, norm)
    x_btd = torch.randn(2, 9, 16)
    frames_bt = frame_mask(lens, 9)
    expected = theirs(x_btd, src_key_padding_mask=~frames_bt)
    got = ours(x_btd, Frames(frames_bt, Mask(key_lens=lens, query_lens=lens)))
    torch.testing.assert_close(got[frames_bt], expected[frames_bt], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("window", "causal", "seen"),
    [
        (3, False, lambda offset_ts: offset_ts.abs() <= 3),
        (0, True, lambda offset_ts: offset_ts <= 0),
        (2, True, lambda offset_ts: (offset_ts >= -2) & (offset_ts <= 0)),
    ],
)
def test_a_window_is_pytorchs_layer_with_a_matrix_that_hides(
    window: int, causal: bool, seen: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    torch.manual_seed(0)
    config = EncoderConfig("transformer", 1, 16, 32, subsampling_channels=4, dropout=0.0)
    net = Encoder(config, replace(SOFTMAX, window=window, causal=causal), 80).eval()
    theirs = pytorchs_transformer_layer(net.layers[0]).eval()
    feats_btf, lens_b = torch.randn(2, 51, 80), torch.tensor([51, 34])
    got, lens_b = net(feats_btf, lens_b)
    x_btd, _ = net.subsampling(feats_btf, torch.tensor([51, 34]))
    frame_t = torch.arange(13)
    hidden_ts = ~seen(frame_t[None, :] - frame_t[:, None])
    padding_bt = ~frame_mask(lens_b, 13)
    expected = net.norm(theirs(x_btd, src_mask=hidden_ts, src_key_padding_mask=padding_bt))
    assert lens_b.tolist() == [13, 9]
    torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got[1, :9], expected[1, :9], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("position", ["none", "alibi"])
@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_who_has_no_window_asks_for_no_engine_that_has_windows(
    weighting: str, position: str
) -> None:
    config = AttentionConfig(weighting, position, 4)
    kinds = "key_lens+query_lens+chunk"
    for window, causal, more in (
        (0, False, ""),
        (4, False, "+window"),
        (4, True, "+window+causal"),
    ):
        attention = build_attention(replace(config, window=window, causal=causal), 16)
        assert attention.resolve(torch.device("cpu"), torch.float32).mask_kind == kinds + more


def test_conformer_layer_equals_torchaudios_with_copied_weights() -> None:
    """Theirs with group norm of one group replaced by ours per frame is not the same function, so the
    convolution's norm is made the identity on both sides; everything else is compared."""
    torch.manual_seed(1)
    dim, ff_dim, kernel, lens = 16, 32, 5, torch.tensor([9, 6])
    theirs = torchaudio.models.conformer.ConformerLayer(dim, ff_dim, 4, kernel, 0.0).eval()
    theirs.conv_module.sequential[3] = nn.Identity()
    ours = layer(dim, ff_dim, "conformer", kernel)
    heads, convolution = ours.attention.branch.attention, ours.convolution.branch
    convolution.depthwise_norm = nn.Identity()
    conv = theirs.conv_module.sequential
    pairs = {
        heads.project_qkv: (theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias),
        heads.project_out: _both(theirs.self_attn.out_proj),
        ours.attention.norm: _both(theirs.self_attn_layer_norm),
        ours.convolution.norm: _both(theirs.conv_module.layer_norm),
        convolution.widen: (conv[0].weight[..., 0], conv[0].bias),
        convolution.depthwise: (conv[2].weight[:, :, None], conv[2].bias),
        convolution.narrow: (conv[5].weight[..., 0], conv[5].bias),
        ours.norm: _both(theirs.final_layer_norm),
    }
    for mine, other in ((ours.ff_before, theirs.ffn1), (ours.ff_after, theirs.ffn2)):
        pairs[mine.norm] = _both(other.sequential[0])
        pairs[mine.branch.widen] = _both(other.sequential[1])
        pairs[mine.branch.narrow] = _both(other.sequential[4])
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
        got = ours(x_btd, Frames(frames_bt, Mask(key_lens=lens, query_lens=lens)))
        got = got[row : row + 1, :length]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


OTHER_VALUES = {"conv_kernel": 7, "conv_norm": "rmsnorm", "cgmlp_dim": 20, "causal": True}


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_a_kind_reads_the_options_that_it_declares_and_no_other(kind: str) -> None:
    def outcome(config: EncoderConfig) -> torch.Tensor:
        torch.manual_seed(0)
        net = Encoder(config, SOFTMAX, 80).eval()
        return net(torch.linspace(-1, 1, 80 * 80).view(1, 80, 80), torch.tensor([80]))[0]

    config = EncoderConfig(kind, 1, 16, 32, 5, subsampling_channels=4)
    assert set(OTHER_VALUES) == set(OWN_OPTIONS["encoder"])
    for name, value in OTHER_VALUES.items():
        is_read = not torch.equal(outcome(config), outcome(replace(config, **{name: value})))
        assert is_read == (name in ENCODERS[kind].reads), name


def test_ebranchformer_layer_is_the_papers_formula() -> None:
    """Written again for one utterance, with a norm for each branch as in the paper (arXiv 2210.00077,
    section 3): gains and biases of those two stand in the first linear layers of ours."""
    torch.manual_seed(1)
    dim, kernel, lens, f = 16, 5, torch.tensor([9, 6]), nn.functional
    ours = layer(dim, 32, "ebranchformer", kernel)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    branches, norm = ours.branches.branch, ours.branches.norm
    qkv, cgmlp = branches.attention.attention.project_qkv, branches.convolution
    weights = {name: value.detach().clone() for name, value in ours.named_parameters()}
    gains = {qkv: torch.randn(2, dim), cgmlp.widen: torch.randn(2, dim)}  # of the norms, and biases
    with torch.no_grad():
        norm.weight.fill_(1.0)
        norm.bias.zero_()
        for linear, (gain, bias) in gains.items():
            linear.bias.copy_(linear.weight @ bias + linear.bias)
            linear.weight.mul_(gain)

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def feed_forward(name: str, x: torch.Tensor) -> torch.Tensor:
        normed = f.layer_norm(
            x, (dim,), weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"]
        )
        return (
            x + linear(f"{name}.branch.narrow", f.silu(linear(f"{name}.branch.widen", normed))) / 2
        )

    def depthwise(name: str, x: torch.Tensor) -> torch.Tensor:
        taps, bias = weights[f"{name}.depthwise.weight"][:, 0, 0], weights[f"{name}.depthwise.bias"]
        wide = f.pad(x.T, (kernel // 2, kernel // 2)).unfold(1, kernel, 1)
        return (wide * taps[:, None]).sum(-1).T + bias

    x_btd = torch.randn(2, 9, dim)
    got = ours(x_btd, Frames(frame_mask(lens, 9), Mask(key_lens=lens, query_lens=lens)))
    for row, length in enumerate(lens.tolist()):
        x = feed_forward("ff_before", x_btd[row, :length])
        inner = "branches.branch"
        normed = f.layer_norm(x, (dim,), *gains[qkv])
        q, k, v = linear(f"{inner}.attention.attention.project_qkv", normed).chunk(3, -1)
        heads = [
            (part @ key.T / 2).softmax(-1) @ value
            for part, key, value in zip(q.split(4, -1), k.split(4, -1), v.split(4, -1), strict=True)
        ]
        attended = linear(f"{inner}.attention.attention.project_out", torch.cat(heads, -1))
        normed = f.layer_norm(x, (dim,), *gains[cgmlp.widen])
        kept, gate = f.gelu(linear(f"{inner}.convolution.widen", normed)).chunk(2, -1)
        gate_norm = [weights[f"{inner}.convolution.gate_norm.{one}"] for one in ("weight", "bias")]
        gate = depthwise(
            f"{inner}.convolution", f.layer_norm(gate, (len(gate_norm[0]),), *gate_norm)
        )
        both = torch.cat([attended, linear(f"{inner}.convolution.narrow", kept * gate)], -1)
        x = x + linear(f"{inner}.merge", both + depthwise(inner, both))
        x = feed_forward("ff_after", x)
        expected = f.layer_norm(x, (dim,), weights["norm.weight"], weights["norm.bias"])
        torch.testing.assert_close(got[row, :length], expected, atol=1e-4, rtol=1e-4)


def _both(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return module.weight, module.bias  # type: ignore[return-value]


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("num_frames", [0, 1, 2, 3, 4, 5, 8, 9, 63])
def test_subsampling_counts_its_frames_and_ignores_padding(num_frames: int, factor: int) -> None:
    torch.manual_seed(2)
    module = Subsampling(num_mels=20, channels=3, dim=8, factor=factor)
    padded = torch.full((2, 70, 20), float("nan"))
    padded[0, :num_frames] = torch.randn(num_frames, 20)
    padded[1] = 0.0
    out_btd, lens_b = module(padded, torch.tensor([num_frames, 70]))
    assert lens_b[0] == subsampled(num_frames, factor) == math.ceil(num_frames / factor)
    alone_btd, _ = module(padded[:1, : max(num_frames, 1)], torch.tensor([num_frames]))
    length = int(lens_b[0])
    torch.testing.assert_close(out_btd[0, :length], alone_btd[0, :length])
    assert out_btd[0, :length].isfinite().all()


def test_subsampling_by_another_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="factor = 6: choose one of 2, 4, 8"):
        Subsampling(20, 3, 8, factor=6)


class Halve(nn.Module):
    def forward(self, x_btd: torch.Tensor, frames: Frames) -> torch.Tensor:
        return x_btd / 2


FRAMES = Frames(torch.ones(1, 1, dtype=torch.bool), Mask())


def test_residuals_by_hand() -> None:
    x = torch.tensor([[[3.0, -1.0]]])
    # the norm of (3, -1) is (1, -1), its half is the branch; half of that is added, or a tenth of it
    pre = PreNorm(Halve(), 2, weight=0.5)
    torch.testing.assert_close(pre(x, FRAMES), torch.tensor([[[3.25, -1.25]]]), atol=1e-4, rtol=0)
    scaled = PreNorm(Halve(), 2, weight=0.5, layer_scale=0.1)
    torch.testing.assert_close(
        scaled(x, FRAMES), torch.tensor([[[3.025, -1.025]]]), atol=1e-4, rtol=0
    )
    post = PostNorm(Halve(), 2)
    torch.testing.assert_close(post(x, FRAMES), torch.tensor([[[1.0, -1.0]]]), atol=1e-4, rtol=0)


def test_stochastic_depth_drops_whole_utterances_and_keeps_the_mean() -> None:
    torch.manual_seed(4)
    dropped = PreNorm(Halve(), 2, drop_rate=0.25)
    x = torch.tensor([3.0, -1.0]).expand(20_000, 3, 2)
    branch = (dropped(x, FRAMES) - x)[..., 0]
    # a branch of 0.5 is either left out or scaled by 4/3, for all frames of an utterance alike
    torch.testing.assert_close(branch, branch[:, :1].expand_as(branch))
    assert sorted({round(float(value), 3) for value in branch.unique()}) == [0.0, 0.667]
    # the deviation of the mean of 20,000 draws is 0.002
    assert float(branch.mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(
        dropped.eval()(x, FRAMES), PreNorm(Halve(), 2)(x, FRAMES), atol=1e-6, rtol=0
    )


def test_stochastic_depth_grows_with_depth() -> None:
    config = EncoderConfig(
        "transformer", 4, 8, 8, subsampling_channels=2, stochastic_depth=0.4, dropout=0.0
    )
    layers = Encoder(config, SOFTMAX, 80).layers
    assert [layer.ff.drop_rate for layer in layers] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_grouped_heads_equal_full_heads_with_repeated_weights() -> None:
    torch.manual_seed(5)
    grouped = build_attention(replace(SOFTMAX, num_kv_heads=2), 16)
    full = build_attention(SOFTMAX, 16)
    q, k, v = grouped.project_qkv.weight.data.split([16, 8, 8])
    bq, bk, bv = grouped.project_qkv.bias.data.split([16, 8, 8])

    def repeat(rows: torch.Tensor) -> torch.Tensor:
        return rows.unflatten(0, (2, 4)).repeat_interleave(2, dim=0).flatten(0, 1)

    full.project_qkv.weight.data = torch.cat([q, repeat(k), repeat(v)])
    full.project_qkv.bias.data = torch.cat([bq, repeat(bk), repeat(bv)])
    full.project_out.load_state_dict(grouped.project_out.state_dict())
    x_btd, mask = torch.randn(2, 7, 16), Mask(key_lens=torch.tensor([7, 4]))
    torch.testing.assert_close(grouped(x_btd, mask), full(x_btd, mask))


def test_qk_norm_bounds_the_scores() -> None:
    """With unit gains each head's query and key have length sqrt(d), so no score exceeds sqrt(d)."""
    torch.manual_seed(6)
    attention = build_attention(replace(SOFTMAX, qk_norm=True), 16)
    q_bhtd, k_bhsd, _ = attention._heads(1e3 * torch.randn(1, 9, 16))
    torch.testing.assert_close(q_bhtd.square().mean(-1), torch.ones(1, 4, 9), atol=1e-4, rtol=0)
    assert float((q_bhtd @ k_bhsd.mT / 2.0).abs().max()) <= 2.0 + 1e-3


@pytest.mark.parametrize(
    ("limits", "num_kept"),
    [
        ({"window": (3, 0)}, 3),
        ({"causal": True}, 13),
        ({"causal": True, "window": (5, None)}, 5),
        ({"chunk": (4, 1)}, 4),
        ({"chunk": (4, 2), "window": 6}, 6),
        ({"chunk": (4, None)}, 13),
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_remembers_what_its_mask_lets_a_later_frame_see(
    limits: dict[str, Any], num_kept: int, padded: bool
) -> None:
    torch.manual_seed(9)
    config = AttentionConfig("sigmoid", "relative", 4, window=1, causal=True)
    attention = build_attention(config, 16)
    x_btd, lens = torch.randn(2, 13, 16), torch.tensor([13, 10])
    if not padded:
        lens[1] = 13
    whole = attention(x_btd, Mask(key_lens=lens, query_lens=lens, **limits))
    memory, parts = Memory(), []
    for start in (0, 4, 8, 12):
        part_btd = x_btd[:, start : start + 4]
        lens_b = (lens - start).clamp(0, part_btd.shape[1])
        mask = Mask(key_lens=lens_b, query_lens=lens_b, q_start=start, k_start=start, **limits)
        parts.append(attention(part_btd, mask, memory))
    got = torch.cat(parts, dim=1)
    torch.testing.assert_close(got[0], whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(got[1, : lens[1]], whole[1, : lens[1]], atol=1e-5, rtol=0)
    assert memory.sizes() == {name: {(2, 4, num_kept, 4)} for name in ("keys", "values")}


def test_output_norm_normalises_what_is_added() -> None:
    torch.manual_seed(7)
    attention = build_attention(replace(SOFTMAX, output_norm=True), 16)
    o_btd = attention(1e3 * torch.randn(1, 9, 16), Mask())
    torch.testing.assert_close(o_btd.mean(-1), torch.zeros(1, 9), atol=1e-4, rtol=0)
    torch.testing.assert_close(o_btd.var(-1, correction=0), torch.ones(1, 9), atol=1e-3, rtol=0)


SIGMOIDS = [
    # five keys: what is added to a score of 0, and what multiplies the weight
    ({"shift": "none"}, 0.0, 1.0),
    ({"shift": "constant", "shift_constant": -2.0}, -2.0, 1.0),
    ({}, -math.log(3), 1.0),
    ({"count": "sequence"}, -math.log(5), 1.0),
    ({"shift": "none", "row_scale": "1/n"}, 0.0, 1 / 3),
    ({"shift": "none", "row_scale": "1/sqrt n"}, 0.0, 1 / math.sqrt(3)),
    ({"shift_per_head": True}, -math.log(3) + 0.7, 1.0),
    ({"shift_exponent": True}, -0.6 * math.log(3), 1.0),
    ({"count": "effective"}, -math.log(3), 1.0),  # no position, no bias
]


@pytest.mark.parametrize(("options", "shift", "scale"), SIGMOIDS)
def test_sigmoid_shifts_by_hand(options: dict[str, object], shift: float, scale: float) -> None:
    """Frame 2 of 5 sees the three of its chunk; keys are zero, values and projections one."""
    attention = build_attention(AttentionConfig("sigmoid", "none", 1, **options), 4)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.project_qkv.bias[-4:] = 1.0
        attention.project_out.weight.copy_(torch.eye(4))
        if attention.bias_h is not None:
            attention.bias_h.fill_(0.7)
        if attention.exponent_h is not None:
            attention.exponent_h.fill_(0.6)
    mask = Mask(key_lens=torch.tensor([5]), chunk=3)
    out = attention(torch.randn(1, 6, 4), mask)[0, 2]
    expected = 3 * scale / (1 + math.exp(-shift))
    torch.testing.assert_close(out, torch.full((4,), expected))


def test_linformer_by_its_formula_for_each_utterance_alone() -> None:
    """softmax(q (E k / sqrt n)^T / sqrt d) (F v / sqrt n), utterance by utterance and head by head."""
    torch.manual_seed(8)
    config = replace(SOFTMAX, keys="linformer", linformer_length=3, linformer_frames=20)
    attention = build_attention(config, 16)
    lens = torch.tensor([9, 5])
    x_btd = torch.randn(2, 9, 16)
    x_btd[1, 5:] = float("nan")
    got = attention(x_btd, Mask(key_lens=lens, query_lens=lens))
    assert attention.linformer is not None
    mix_k, mix_v = attention.linformer.mix_k_ls, attention.linformer.mix_v_ls
    for row, length in enumerate(lens.tolist()):
        q_htd, k_htd, v_htd = (part[0] for part in attention._heads(x_btd[row : row + 1, :length]))
        k_hld = mix_k[:, :length] @ k_htd / math.sqrt(length)
        v_hld = mix_v[:, :length] @ v_htd / math.sqrt(length)
        o_htd = (q_htd @ k_hld.mT / 2.0).softmax(-1) @ v_hld
        expected = attention.project_out(o_htd.transpose(0, 1).flatten(1))
        torch.testing.assert_close(got[row, :length], expected)


def test_linformer_refuses_what_is_longer_than_it_was_made_for() -> None:
    config = replace(SOFTMAX, keys="linformer", linformer_frames=8)
    with pytest.raises(InputError, match="9 frames: this model's attention was made for at most"):
        build_attention(config, 16)(torch.randn(1, 9, 16), Mask())
