"""What is read off attention, against cases computed by hand, singular values and autograd."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from made_batches import batch_of
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr import config
from asr.config.kinds import ENCODERS
from asr.data.examples import Batch
from asr.errors import InputError
from asr.model.recogniser import Recogniser
from asr.nn.attention import MultiHeadAttention, attentions, build_attention
from asr.nn.decoder import CrossAttention
from asr.nn.frames import Frames, Source, frame_mask
from asr.probe.diagnostics import Head, diagnose, head_statistics, series
from asr.probe.jacobian import jacobian_norms

SMALL = [
    *("encoder.num_layers=2", "encoder.dim=16", "encoder.ff_dim=16"),
    *("encoder.subsampling_channels=4", "attention.num_heads=2", "tokenizer.kind=char"),
    *("features.num_mels=20", "encoder.dropout=0.3"),
]


def statistics(p_ts: Tensor, near_frames: int = 1, s_ts: Tensor | None = None) -> Head:
    """Of one matrix of which everything is visible."""
    num_rows, num_keys = p_ts.shape
    offset_ts = torch.arange(num_keys) - torch.arange(num_rows)[:, None]
    seen_bts = torch.ones(1, num_rows, num_keys, dtype=torch.bool)
    s_ts = p_ts if s_ts is None else s_ts
    (head,) = head_statistics(p_ts[None, None], s_ts[None, None], seen_bts, offset_ts, near_frames)
    return head


def test_uniform_attention() -> None:
    head = statistics(torch.full((4, 4), 0.25))
    # the first and the last row have 2 keys within a frame, the others 3, of 4
    expected = Head(math.log(4), 1.0, 1.0, 1.0, 0.25, (2 + 3 + 3 + 2) / 16)
    assert vars(head) == pytest.approx(vars(expected))


def test_identity_attention() -> None:
    head = statistics(torch.eye(5), near_frames=0)
    assert vars(head) == pytest.approx(vars(Head(0.0, 0.0, 1.0, 1.0, 1.0, 1.0)), abs=1e-6)
    shifted = statistics(torch.eye(5).roll(2, dims=1), near_frames=1)
    assert shifted.near == 0.0
    assert statistics(torch.eye(5).roll(2, dims=1), near_frames=2).near == pytest.approx(3 / 5)


def test_rows_need_not_sum_to_one_nor_be_positive() -> None:
    p_ts = torch.tensor([[1.5, 0.5], [-0.25, 0.75]])
    head = statistics(p_ts, near_frames=0, s_ts=torch.tensor([[3.0, -7.0], [1.0, 2.0]]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))  # of both rows
    expected = Head(entropy, entropy / math.log(2), 1.25, 2.0, 3.0, 0.75)
    assert vars(head) == pytest.approx(vars(expected))


def test_rows_without_weight_and_hidden_keys_are_left_out() -> None:
    """Of two utterances the second has two frames of three; a row of the first has no weight."""
    p_bhts = torch.zeros(2, 1, 3, 3)
    p_bhts[0, 0, 0], p_bhts[0, 0, 1] = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.0, 3.0, 0.0])
    p_bhts[1, 0, :2, :2] = 0.5
    seen_bts = torch.ones(2, 3, 3, dtype=torch.bool)
    seen_bts[1, 2] = seen_bts[1, :, 2] = False
    s_bhts = torch.full((2, 1, 3, 3), -4.0)
    s_bhts[1, 0, 2, 2] = 99.0
    (head,) = head_statistics(p_bhts, s_bhts, seen_bts, None, 1)
    of_first = 0.5 * math.log(4) + 0.5 * math.log(2)
    assert head.entropy == pytest.approx((of_first + 0.0 + 2 * math.log(2)) / 4)
    assert head.of_uniform == pytest.approx((of_first / math.log(3) + 0.0 + 2) / 4)
    assert head.row_sum == pytest.approx((4 + 3 + 0 + 1 + 1) / 5)
    assert head.largest_row_sum == 4.0
    assert head.largest_logit == -4.0
    assert math.isnan(head.near)


def test_a_broken_row_is_seen() -> None:
    p_ts = torch.tensor([[math.nan, 0.5], [0.5, 0.5]])
    assert math.isnan(statistics(p_ts).entropy)
    assert math.isnan(statistics(p_ts).row_sum)


def test_jacobian_norm_of_linear_maps_is_their_largest_singular_value() -> None:
    """J of x -> A x W^T is the Kronecker product of A and W: its norm is the product of theirs."""
    torch.manual_seed(0)
    (left, _), (right, _) = (torch.linalg.qr(torch.randn(3, 5, 5).double()) for _ in range(2))
    singular_t = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0]).double()
    a_btt = (
        torch.tensor([1.0, 4.0, 0.1], dtype=torch.float64)[:, None, None]
        * (left * singular_t)
        @ right
    )
    w_dd = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1]).double())
    x_btd = torch.randn(3, 5, 4).double()
    norms_b = jacobian_norms(lambda x: a_btt @ x @ w_dd.mT, x_btd, num_iterations=40)
    assert norms_b.tolist() == pytest.approx([6.0, 24.0, 0.6], rel=1e-9)
    few_b = jacobian_norms(lambda x: a_btt @ x @ w_dd.mT, x_btd, num_iterations=2)
    assert bool((few_b < norms_b).all())
    assert float(jacobian_norms(lambda x: 0 * x, x_btd).max()) == 0.0


WORDS = [
    ("sigmoid", "alibi", ["attention.count=effective", "attention.shift_exponent=true"]),
    ("sigmoid", "relative", ["attention.qk_norm=true", "attention.shift_per_head=true"]),
    pytest.param("softmax", "rope", ["attention.output_norm=true"], marks=pytest.mark.slow),
    pytest.param("relu", "table", ["attention.num_kv_heads=1"], marks=pytest.mark.slow),
    ("polynomial", "none", ["attention.keys=linformer", "attention.linformer_length=3"]),
    ("sigmoid", "alibi", ["attention.window=2"]),
    ("softmax", "relative", ["attention.window=3", "attention.causal=true"]),
]


@pytest.mark.parametrize(("weighting", "position", "more"), WORDS)
def test_jacobian_norm_of_attention_is_that_of_the_whole_matrix(
    weighting: str, position: str, more: list[str]
) -> None:
    words = [*SMALL, f"attention.weighting={weighting}", f"attention.position={position}", *more]
    torch.manual_seed(1)
    options = config.load([], words).attention
    module = build_attention(options, 16).double().eval()
    module.use("reference")
    lens_b = torch.tensor([6, 4])
    x_btd = torch.randn(2, 6, 16).double()
    limits = Mask(window=options.window or None, causal=options.causal)
    mask = replace(limits, key_lens=lens_b, query_lens=lens_b)
    norms_b = jacobian_norms(lambda x: module(x, mask), x_btd, num_iterations=30).detach()
    for row, length in enumerate(lens_b.tolist()):
        whole = torch.autograd.functional.jacobian(
            lambda x: module(x, limits), x_btd[row:][:1, :length]
        )
        matrix = whole.reshape(length * 16, length * 16)
        norm = float(torch.linalg.matrix_norm(matrix, 2))
        assert 0.9 * norm < float(norms_b[row]) <= norm * (1 + 1e-9)


def test_jacobian_norm_obeys_the_papers_bound() -> None:
    """|J| <= |W_v| (n sup p + 2 n sup p' |W_q^T W_k| mean |x_i|^2): one head, no position."""
    cfg = config.load([], [*SMALL, "attention.position=none", "attention.num_heads=1"])
    torch.manual_seed(2)
    module = build_attention(cfg.attention, 16).double()
    with torch.no_grad():
        module.project_out.weight.copy_(torch.eye(16))
        module.project_qkv.bias.zero_()
    module.use("reference")
    for scale in (0.1, 1.0, 5.0):
        x_btd = scale * torch.randn(1, 12, 16).double()
        norm = float(jacobian_norms(lambda x: module(x, Mask()), x_btd).detach())
        w_q, w_k, w_v = module.project_qkv.weight.detach().chunk(3)
        scores_ts = (x_btd[0] @ w_q.T) @ (x_btd[0] @ w_k.T).T / 4 - math.log(12)
        p_ts = scores_ts.sigmoid()
        product = float(torch.linalg.matrix_norm(w_q.T @ w_k / 4, 2))
        energy = float(x_btd.square().sum(2).mean())
        steepest = float((p_ts * (1 - p_ts)).max())
        bound = 12 * float(p_ts.max()) + 2 * 12 * steepest * product * energy
        bound *= float(torch.linalg.matrix_norm(w_v, 2))
        assert 0 < norm <= bound


def build(*options: str) -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(config.load([], [*SMALL, *options]), 12)


def test_a_model_whose_attention_is_uniform() -> None:
    """No queries, so all scores are 0: figures by hand over two utterances of 25 and 15 frames."""
    counts, rows = (25, 15), 25 + 15
    for weighting, row_sum in (("softmax", lambda n: 1.0), ("sigmoid", lambda n: n / (n + 1))):
        net = build(
            f"attention.weighting={weighting}", "attention.position=none", "encoder.num_layers=1"
        )
        with torch.no_grad():
            for attention in attentions(net):
                attention.project_qkv.weight.zero_()
                attention.project_qkv.bias.zero_()
                attention.project_out.bias.fill_(0.5)
        diagnosis = diagnose(net, batch_of(16000, 9600), near_frames=2)
        for layer in diagnosis.layers:
            for head in layer.heads:
                assert head.entropy == pytest.approx(sum(n * math.log(n) for n in counts) / rows)
                assert head.of_uniform == pytest.approx(1.0)
                assert head.row_sum == pytest.approx(sum(n * row_sum(n) for n in counts) / rows)
                assert head.largest_logit == 0.0
                # five keys are near, but four and three at each end
                assert head.near == pytest.approx(sum((5 * n - 6) / n for n in counts) / rows)
            assert layer.output_norm == pytest.approx(0.5 * math.sqrt(16))
            assert layer.jacobian_norm == 0.0


@pytest.mark.parametrize("causal", [False, True])
def test_uniform_attention_in_a_window(causal: bool) -> None:
    """Each of 25 frames sees itself and up to three to each side, or to the left alone."""
    net = build("attention.window=3", f"attention.causal={causal}", "attention.position=none")
    with torch.no_grad():
        for attention in attentions(net):
            attention.project_qkv.weight.zero_()
            attention.project_qkv.bias.zero_()
    counts = [min(t, 3) + 1 + (0 if causal else min(24 - t, 3)) for t in range(25)]
    near = [min(t, 1) + 1 + (0 if causal else min(24 - t, 1)) for t in range(25)]
    for layer in diagnose(net, batch_of(16000), near_frames=1).layers:
        for head in layer.heads:
            assert head.entropy == pytest.approx(sum(map(math.log, counts)) / 25)
            assert head.row_sum == pytest.approx(sum(n / (n + 1) for n in counts) / 25)
            assert head.near == pytest.approx(
                sum(a / b for a, b in zip(near, counts, strict=True)) / 25
            )


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_norms_are_those_of_the_tensors(norm: str) -> None:
    net = build("encoder.layer_scale=0.25", f"encoder.norm={norm}", "encoder.kind=transformer")
    batch = batch_of(16000, 9600)
    diagnosis = diagnose(net, batch)
    net.eval()
    feats_btf, feat_lens_b = net.normalised_features(batch.wave_bn, batch.wave_lens_b)
    alone_btf = feats_btf[1:, : feat_lens_b[1]]
    norms = []
    for x_btf in (feats_btf[:1], alone_btf):  # each by itself: no padding enters
        lens_b = torch.tensor([x_btf.shape[1]])
        x_btd, lens_b = net.encoder.subsampling(x_btf, lens_b)
        around = net.encoder.layers[0].attention
        into = around.norm(x_btd) if norm == "pre" else x_btd
        added = 0.25 * around.branch.attention(into, Mask())
        norms.append((x_btd[0].norm(dim=1), added[0].norm(dim=1)))
    layer = diagnosis.layers[0]
    assert layer.residual_norm == pytest.approx(
        float(torch.cat([a for a, _ in norms]).detach().mean()), rel=1e-4
    )
    assert layer.output_norm == pytest.approx(
        float(torch.cat([b for _, b in norms]).mean()), rel=1e-4
    )
    assert layer.output_share == layer.output_norm / layer.residual_norm


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_every_kind_of_encoder_shows_its_attention(kind: str) -> None:
    """What is read off an E-Branchformer's attention is what stands beside its other branch."""
    net, batch = build(f"encoder.kind={kind}"), batch_of(16000, 9600)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    for attention in attentions(net):
        attention.register_forward_hook(lambda _, args, out: seen.append((args[1], out)))
    diagnosis = diagnose(net, batch)
    assert len(diagnosis.layers) == 2
    for layer, (mask, out_btd) in zip(diagnosis.layers, seen[:2], strict=True):
        exist_bt = frame_mask(mask.query_lens, out_btd.shape[1])
        norm = float(out_btd.detach().double().norm(dim=2)[exist_bt].mean())
        assert layer.output_norm == pytest.approx(norm, rel=1e-6)
        assert 0 < layer.residual_norm < math.inf


def test_attention_with_no_residual_connection_is_found_and_a_model_without_any_refused() -> None:
    net, batch = build("encoder.num_layers=1"), batch_of(16000, 9600)
    layer = net.encoder.layers[0]
    layer.attention = layer.attention.branch
    (found,) = diagnose(net, batch).layers
    assert len(found.heads) == 2
    assert found.residual_norm > 0
    layer.attention = layer.ff_before
    with pytest.raises(InputError, match="this model has no attention"):
        diagnose(net, batch)


def test_gradients_are_autograds_and_nothing_is_left_behind() -> None:
    net, batch = build(), batch_of(16000, 9600)
    net.train()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    diagnosis = diagnose(net, batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    net.eval()
    loss_b = net.loss(batch.wave_bn, batch.wave_lens_b, batch.tokens_bu, batch.token_lens_b)
    (loss_b.sum() / 6).backward()
    assert diagnosis.loss == pytest.approx(float(loss_b.detach().sum()) / 6, rel=1e-5)

    def norm(module: nn.Module) -> float:
        return math.sqrt(
            sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
        )

    assert diagnosis.gradient_norm == pytest.approx(norm(net), rel=1e-4)
    for layer, attention in zip(diagnosis.layers, attentions(net), strict=True):
        assert layer.gradient_norm == pytest.approx(norm(attention), rel=1e-4)


def test_padding_changes_nothing_and_every_number_has_a_name() -> None:
    net = build("attention.position=relative")
    alone, padded = batch_of(12000), batch_of(12000, 16000)
    padded = Batch(
        *(value[:1] for value in (padded.ids, padded.wave_bn, padded.wave_lens_b)),
        *(padded.tokens_bu[:1], padded.token_lens_b[:1], 0.75, ("",), ("",)),
    )
    left, right = series(diagnose(net, alone)), series(diagnose(net, padded))
    assert left.keys() == right.keys()
    assert left.pop("overflow") is right.pop("overflow") is None
    assert left == pytest.approx(right, rel=1e-3)
    layers, heads, of_head, of_layer = 2, 2, 6, 4
    assert len(left) == layers * (heads * of_head + of_layer) + 2
    assert {"entropy/layer1.head2", "jacobian_norm/layer2", "gradient_norm"} <= set(left)


DECODER = ["decoder.num_layers=2", "decoder.num_heads=2", "decoder.ff_dim=16"]
LAYERS = ["layer1", "layer2", "decoder1.self", "decoder1.cross", "decoder2.self", "decoder2.cross"]


def with_decoder(heads: str, *options: str) -> tuple[Recogniser, Batch]:
    """A model, and two utterances of 25 and 15 frames with transcripts of 3 tokens and of 1."""
    net = build(*DECODER, f"model.heads=[{heads}]", *options)
    batch = batch_of(16000, 9600)
    return net, replace(batch, token_lens_b=torch.tensor([3, 1]))


@pytest.mark.parametrize("heads", ["ctc,attention", "attention,ctc", "attention"])
def test_a_decoder_whose_attention_is_uniform(heads: str) -> None:
    """No queries, so all scores are 0: rows are 4 and 2 tokens, of which each sees those up to itself,
    and all of 25 and 15 frames."""
    options = ["decoder.weighting=sigmoid", "decoder.cross_weighting=softmax"]
    net, batch = with_decoder(heads, *options)
    with torch.no_grad():
        for module in net.heads["attention"].modules():
            if isinstance(module, MultiHeadAttention):
                module.project_qkv.weight.zero_()
                module.project_qkv.bias.zero_()
                module.project_out.bias.fill_(0.5)
            elif isinstance(module, CrossAttention):
                module.project_q.weight.zero_()
                module.project_q.bias.zero_()
    layers = diagnose(net, batch, near_frames=1).layers
    assert [layer.name for layer in layers] == LAYERS
    seen = [1, 2, 3, 4, 1, 2]
    for layer in layers[2::2]:
        assert layer.output_norm == pytest.approx(0.5 * math.sqrt(16))
        assert layer.jacobian_norm == 0.0
        for head in layer.heads:
            assert head.entropy == pytest.approx(sum(map(math.log, seen)) / 6)
            assert head.of_uniform == pytest.approx(1.0)
            assert head.row_sum == pytest.approx(sum(n / (n + 1) for n in seen) / 6)
            assert head.largest_row_sum == pytest.approx(4 / 5)
            assert head.near == pytest.approx((1 + 1 + 2 / 3 + 2 / 4 + 1 + 1) / 6)
    for layer in layers[3::2]:
        for head in layer.heads:
            assert head.entropy == pytest.approx((4 * math.log(25) + 2 * math.log(15)) / 6)
            assert (head.row_sum, head.of_uniform) == pytest.approx((1.0, 1.0))
            assert head.largest_logit == 0.0
            assert math.isnan(head.near)


@pytest.mark.parametrize("heads", ["ctc,attention", "attention"])
def test_a_decoders_norms_and_gradients_are_those_of_each_utterance_alone(heads: str) -> None:
    """Of its own loss, and of the tokens that exist."""
    options = ["decoder.position=relative", "decoder.cross_weighting=sigmoid"]
    net, batch = with_decoder(heads, *options)
    diagnosis = diagnose(net, batch)
    net.eval()
    head = net.head("attention")
    entered: dict[str, list[Tensor]] = {}
    added: dict[str, list[Tensor]] = {}
    attentions_by_name = {
        f"decoder{number}.{kind}": (around, attention)
        for number, layer in enumerate(head.decoder.layers, start=1)
        for kind, around, attention in (
            ("self", layer.self_attention, layer.self_attention.branch.attention),
            ("cross", layer.cross_attention, layer.cross_attention.branch),
        )
    }
    for name, (around, attention) in attentions_by_name.items():
        entered[name], added[name] = [], []
        around.register_forward_pre_hook(
            lambda _, args, name=name: entered[name].append(args[0][0].norm(dim=1))
        )
        attention.register_forward_hook(
            lambda _, __, out, name=name: added[name].append(out[0].norm(dim=1))
        )
    loss = torch.zeros(())
    for row, num_tokens in enumerate((3, 1)):
        wave_bn = batch.wave_bn[row:][:1, : batch.wave_lens_b[row]]
        frames_bsd, lens_b = net(wave_bn, batch.wave_lens_b[row:][:1], head="attention")
        tokens_bu = batch.tokens_bu[row:][:1, :num_tokens]
        loss = loss + head.loss_of_frames(frames_bsd, lens_b, tokens_bu, torch.tensor([num_tokens]))
    (loss.sum() / 4).backward()
    for layer in diagnosis.layers[2:]:
        for found, norms in ((layer.residual_norm, entered), (layer.output_norm, added)):
            expected = float(torch.cat(norms[layer.name]).detach().mean())
            assert found == pytest.approx(expected, rel=1e-4)
        parameters = attentions_by_name[layer.name][1].parameters()
        squares = [float(p.grad.square().sum()) for p in parameters if p.grad is not None]
        assert layer.gradient_norm == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)
        assert 0 < layer.jacobian_norm < math.inf
    if heads == "attention":
        assert diagnosis.loss == pytest.approx(float(loss.detach().sum()) / 4, rel=1e-5)


def test_jacobian_norm_of_cross_attention_is_that_of_the_whole_matrix() -> None:
    """Of the edge and the 2 tokens of the first transcript, and of the edge of the second, which is
    empty; both are padded to 4."""
    net, batch = with_decoder("ctc,attention", "decoder.cross_weighting=sigmoid")
    batch = replace(batch, token_lens_b=torch.tensor([2, 0]))
    inputs: list[tuple[Tensor, Frames]] = []
    attention = net.head("attention").decoder.layers[0].cross_attention.branch
    handle = attention.register_forward_hook(lambda _, args, __: inputs.append(args))
    layer = next(one for one in diagnose(net, batch).layers if one.name == "decoder1.cross")
    handle.remove()
    x_bud, frames = inputs[0]
    assert x_bud.shape[:2] == (2, 4)
    twin = copy.deepcopy(attention).double()
    norms = []
    for row, length in ((0, 3), (1, 1)):
        source = Source(
            frames.source.frames_bsd[row:][:1].detach().double(), frames.source.lens_b[row:][:1]
        )
        alone = Frames(frames.exist_bt[:1], frames.mask, None, source)
        x_1ud = x_bud[row:][:1, :length].detach().double()
        whole = torch.autograd.functional.jacobian(lambda x, alone=alone: twin(x, alone), x_1ud)
        matrix = whole.reshape(length * 16, length * 16)
        norms.append(float(torch.linalg.matrix_norm(matrix, 2)))
    # each token has singular values of its own, near those of the others: power iteration is slow
    assert 0.8 * max(norms) < layer.jacobian_norm <= max(norms) * (1 + 1e-9)


def test_the_first_module_that_overflowed_is_named() -> None:
    net = build("attention.keys=linformer", "attention.position=none")
    fine = series(diagnose(net, batch_of(16000, 9600)))
    assert fine["overflow"] is None
    assert fine["near/layer1.head1"] is None  # mixtures stand at no frame
    with torch.no_grad():
        net.encoder.layers[1].ff_before.branch.widen.bias[0] = math.inf
    broken = series(diagnose(net, batch_of(16000, 9600)))
    assert broken["overflow"] == "encoder.layers.1.ff_before.branch.widen"
    assert broken["entropy/layer1.head1"] is not None
    assert broken["entropy/layer2.head1"] is None
    assert broken["loss"] is None
