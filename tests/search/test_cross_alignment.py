"""Tokens placed by cross-attention: against attention that is known, and against all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from asr import config
from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.table import build_heads
from asr.nn.frames import Source
from asr.search.cross_alignment import _path, cross_spans

DIM, VOCAB = 8, 6


def decoder(weighting: str = "softmax") -> AttentionDecoder:
    torch.manual_seed(0)
    small = [f"encoder.dim={DIM}", "attention.num_heads=2", "model.heads=[attention]"]
    own = ["decoder.num_heads=2", "decoder.num_layers=2", "decoder.ff_dim=8"]
    words = [f"decoder.cross_weighting={weighting}", "tokenizer.kind=char"]
    head = build_heads(config.load([], [*small, *own, *words]), VOCAB)["attention"]
    assert isinstance(head, AttentionDecoder)
    return head.eval()


@torch.no_grad()
@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
def test_weights_are_those_that_the_outputs_are_made_of(weighting: str) -> None:
    head = decoder(weighting)
    tokens_bu = torch.tensor([[0, 3, 1, 5], [0, 2, 2, 4]])
    frames_bsd, lens_b = torch.randn(2, 7, DIM), torch.tensor([7, 5])
    source = Source(frames_bsd, lens_b)
    logits_buv, weights_bhus = head.decoder.with_weights(tokens_bu, source)
    torch.testing.assert_close(logits_buv, head.decoder(tokens_bu, source))
    assert weights_bhus.shape == (2, 4, 4, 7)
    assert not weights_bhus[1, :, :, 5:].any()
    if weighting == "softmax":
        torch.testing.assert_close(weights_bhus.sum(-1), torch.ones(2, 4, 4))
    # of the first layer: values mixed by these weights are the module's output
    caught = []
    across = head.decoder.layers[0].cross_attention.branch
    handle = across.project_out.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    head.decoder(tokens_bu, source)
    handle.remove()
    _, v_bhsd = across.keys_values(source)
    mixed_bhud = weights_bhus[:, :2] @ v_bhsd
    torch.testing.assert_close(mixed_bhud.transpose(1, 2).flatten(2), caught[0])


def test_the_path_is_the_best_increasing_one_of_the_heads_that_follow() -> None:
    rng = torch.Generator().manual_seed(1)
    num, frames = 4, 9
    follows = torch.rand(3, num, frames, generator=rng) * 0.05
    for head_us in follows:
        for place, frame in enumerate((1, 3, 4, 8)):
            head_us[place, frame] += 1.0
    # a head that stares at one frame is sure of itself, and follows nothing
    stares = torch.full((2, num, frames), 1e-4)
    stares[:, :, 0] = 1.0
    weights_hus = torch.cat([stares, follows]).double()
    assert _path(weights_hus) == (1, 3, 4, 8)

    one_us = torch.rand(1, num, frames, generator=rng).double()
    share_us = (one_us / one_us.sum(-1, keepdim=True))[0]
    best = max(
        itertools.combinations(range(frames), num),
        key=lambda places: sum(math.log(share_us[i, s]) for i, s in enumerate(places)),
    )
    assert _path(one_us) == best


@torch.no_grad()
def test_log_probabilities_are_the_decoders() -> None:
    head = decoder()
    frames_sd, tokens = torch.randn(9, DIM), (3, 1, 5)
    spans = cross_spans(head, frames_sd, tokens)
    lens = torch.tensor([9])
    loss = head.loss_of_frames(
        frames_sd[None], lens, torch.tensor([tokens]), torch.tensor([len(tokens)])
    )
    end = head.log_probs(torch.tensor([[0, *tokens]]), Source(frames_sd[None], lens))[0, -1, 0]
    assert sum(spans.log_probs) + float(end) == pytest.approx(-float(loss), abs=1e-4)
    assert all(one < other for one, other in itertools.pairwise(spans.first_frames))
    crowded = cross_spans(head, frames_sd[:2], tokens)
    assert crowded.first_frames == (0, 0, 1)
    assert cross_spans(head, frames_sd, ()).first_frames == ()
