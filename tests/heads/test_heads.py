"""Heads against every way of reading their frames, one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from asr import config
from asr.config import Config
from asr.config.kinds import HEAD_NAMES
from asr.errors import InputError
from asr.heads.base import Head
from asr.heads.table import HEADS, build_heads
from asr.model.recogniser import Recogniser, weight_shapes
from asr.search.factory import GREEDY_RUNS, SEARCHES

NUM_FRAMES, VOCAB_SIZE, DIM = 4, 3, 8


def merged(labels: Sequence[int]) -> tuple[int, ...]:
    """CTC: repeats are merged, then blanks go."""
    return tuple(label for label, _ in itertools.groupby(labels) if label)


READINGS: dict[str, Callable[[Sequence[int]], tuple[int, ...]]] = {
    "ctc": merged,
}
"""What a label for each frame, 0 for the blank, reads as, by head that reads frame by frame."""


def configured(*heads: str) -> Config:
    small = [
        "encoder.num_layers=1",
        f"encoder.dim={DIM}",
        "encoder.ff_dim=8",
        "features.num_mels=8",
    ]
    chosen = [f"model.heads=[{','.join(heads)}]", "encoder.subsampling_channels=2"]
    decoder = [f"decoder.{one}" for one in ("num_layers=1", "num_heads=2", "ff_dim=8", "dropout=0")]
    own = decoder if "attention" in heads else []
    others = ["attention.num_heads=2", "tokenizer.kind=char"]
    return config.load([], [*small, *chosen, *own, *others])


def head_of(name: str) -> Head:
    torch.manual_seed(0)
    return build_heads(configured(name), VOCAB_SIZE)[name]


def test_every_head_has_a_reading_here_and_a_quick_search() -> None:
    assert set(HEADS) == set(GREEDY_RUNS) == {head for head, _ in SEARCHES}
    assert tuple(HEADS) == HEAD_NAMES
    assert set(READINGS) == {name for name in HEADS if not head_of(name).reads_whole}


@pytest.mark.parametrize("name", list(READINGS))
def test_the_loss_is_that_of_all_readings_and_counts_the_frames_it_needs(name: str) -> None:
    head = head_of(name)
    frames_btx = head.frames(2.0 * torch.randn(1, NUM_FRAMES, DIM)).detach()
    log_probs = frames_btx[0].double().numpy()
    totals: dict[tuple[int, ...], float] = {}
    for labels in itertools.product(range(VOCAB_SIZE), repeat=NUM_FRAMES):
        log_prob = sum(log_probs[t, label] for t, label in enumerate(labels))
        read = READINGS[name](labels)
        totals[read] = np.logaddexp(totals.get(read, -math.inf), log_prob)
    for length in range(1, NUM_FRAMES + 1):
        for tokens in itertools.product(range(1, VOCAB_SIZE), repeat=length):
            lens, token_lens = torch.tensor([NUM_FRAMES]), torch.tensor([length])
            loss_b = head.loss_of_frames(frames_btx, lens, torch.tensor([tokens]), token_lens)
            assert loss_b.tolist() == pytest.approx([-totals.get(tokens, -math.inf)], abs=1e-4)
            assert (head.frames_needed(tokens) <= NUM_FRAMES) == (tokens in totals)


@pytest.mark.parametrize("name", list(READINGS))
def test_the_quick_search_reads_the_likeliest_labels(name: str) -> None:
    head = head_of(name)
    frames_btx = head.frames(2.0 * torch.randn(3, 9, DIM)).detach()
    lens = torch.tensor([9, 6, 1])
    net = Recogniser(configured(name), VOCAB_SIZE)
    for row, (best,) in enumerate(GREEDY_RUNS[name](net)(frames_btx, lens)):
        labels_t = head.labels(frames_btx[row, : lens[row]].numpy())
        assert best.tokens == READINGS[name](labels_t.tolist())


@pytest.mark.parametrize("name", list(HEADS))
def test_padding_changes_no_loss_and_every_weight_gets_a_gradient(name: str) -> None:
    head = head_of(name)
    encoded_btd, lens = torch.randn(2, 9, DIM), torch.tensor([9, 5])
    tokens, token_lens = torch.tensor([[1, 2, 1], [2, 0, 0]]), torch.tensor([3, 1])
    layers = (*head.layers, None)
    losses_b = head.loss([encoded_btd for _ in layers], lens, tokens, token_lens)
    alone_b = head.loss(
        [encoded_btd[1:, :5] for _ in layers], lens[1:], tokens[1:, :1], token_lens[1:]
    )
    torch.testing.assert_close(losses_b[1:], alone_b)
    losses_b.sum().backward()
    for weight_name, weight in head.named_parameters():
        assert weight.grad is not None, weight_name
        assert 0 < float(weight.grad.abs().sum()) < math.inf, weight_name


def test_a_model_has_the_heads_that_it_was_told() -> None:
    names = list(HEADS)
    cfg = configured(*names)
    net = Recogniser(cfg, VOCAB_SIZE)
    assert list(net.heads) == names
    assert net.first_head == names[0]
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    assert weight_shapes(cfg, VOCAB_SIZE) == shapes
    with pytest.raises(InputError, match="this model has no words head"):
        net.head("words")
    with pytest.raises(InputError, match=r"model\.heads = 'transducer': choose one of ctc"):
        Recogniser(configured("transducer"), VOCAB_SIZE)
