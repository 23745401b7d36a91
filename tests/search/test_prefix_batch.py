"""The search of a batch at once finds what the search one by one finds, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.search import prefix_beam as one_by_one
from asr.search.prefix_beam import FEWEST_AT_ONCE, prefix_beam

Found = list[list[tuple[tuple[int, ...], float]]]


def found(log_probs_btv: Tensor, lens_b: Tensor, **options: object) -> Found:
    several = prefix_beam(log_probs_btv, lens_b, has_frames=False, **options)  # type: ignore[arg-type]
    return [[(one.tokens, one.score) for one in row] for row in several]


def both(log_probs_btv: Tensor, lens_b: Tensor, **options: object) -> tuple[Found, Found]:
    """What the batch gives, and each of its utterances alone."""
    assert len(lens_b) >= FEWEST_AT_ONCE
    rows = [slice(row, row + 1) for row in range(len(lens_b))]
    alone = [found(log_probs_btv[row], lens_b[row], **options)[0] for row in rows]
    return found(log_probs_btv, lens_b, **options), alone


def frames(seed: int, frames: int, vocabulary: int, peak: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    size = FEWEST_AT_ONCE + 3
    logits = peak * torch.randn(size, frames, vocabulary, generator=generator)
    lens_b = torch.randint(0, frames + 1, (size,), generator=generator)
    return logits.log_softmax(-1), lens_b


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 24),
    st.integers(2, 7),
    st.sampled_from([0.0, 1.0, 4.0, 30.0]),
    st.sampled_from([1, 2, 8, 40]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([math.inf, 2.0, 0.0]),
)
def test_a_batch_finds_what_each_utterance_finds(
    seed: int,
    num_frames: int,
    vocabulary: int,
    peak: float,
    beam: int,
    token_beam: int | None,
    margin: float,
) -> None:
    batch, alone = both(
        *frames(seed, num_frames, vocabulary, peak),
        beam=beam,
        num_best=beam,
        token_beam=token_beam,
        token_margin=margin,
    )
    assert batch == alone


def test_prefixes_that_left_the_beam_come_back_once() -> None:
    """A beam of 2 drops "a" while "a b" stays in it, then finds "a" again and from it "a b"."""
    probs_tv = torch.tensor(
        [[0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.3, 0.6, 0.1], [0.2, 0.4, 0.4], [0.1, 0.1, 0.8]]
    )
    log_probs_btv = probs_tv.log().expand(FEWEST_AT_ONCE, -1, -1)
    batch, alone = both(log_probs_btv, torch.full((FEWEST_AT_ONCE,), 5), beam=2, num_best=2)
    assert batch == alone
    assert all(len({tokens for tokens, _ in row}) == len(row) for row in batch)


def test_impossible_tokens_are_nobodys() -> None:
    log_probs_btv = torch.full((FEWEST_AT_ONCE, 4, 3), -math.inf)
    log_probs_btv[:, :, 0] = math.log(0.5)
    log_probs_btv[:, 1:3, 1] = math.log(0.5)
    batch, alone = both(log_probs_btv, torch.full((FEWEST_AT_ONCE,), 4), beam=8, num_best=8)
    assert batch == alone
    assert {tokens for tokens, _ in batch[0]} == {(), (1,)}


def test_no_frames_are_the_empty_transcript(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs_btv = torch.zeros(FEWEST_AT_ONCE, 0, 3)
    lens_b = torch.zeros(FEWEST_AT_ONCE, dtype=torch.long)
    assert found(log_probs_btv, lens_b) == [[((), 0.0)]] * FEWEST_AT_ONCE
    monkeypatch.setattr(one_by_one, "FEWEST_AT_ONCE", 10**9)
    assert found(log_probs_btv, lens_b) == [[((), 0.0)]] * FEWEST_AT_ONCE


@pytest.mark.parametrize("beyond", [math.nan, math.inf, -math.inf])
def test_what_lies_beyond_the_lengths_is_nobodys(beyond: float) -> None:
    log_probs_btv, lens_b = frames(5, 12, 4, 2.0)
    expected = found(log_probs_btv, lens_b, beam=4, num_best=4)
    for row, length in enumerate(lens_b.tolist()):
        log_probs_btv[row, length:] = beyond
    with np.errstate(invalid="raise", divide="raise"):
        assert found(log_probs_btv, lens_b, beam=4, num_best=4) == expected


def test_a_vocabulary_of_the_blank_alone() -> None:
    log_probs_btv, lens_b = torch.zeros(FEWEST_AT_ONCE, 3, 1), torch.full((FEWEST_AT_ONCE,), 3)
    assert found(log_probs_btv, lens_b) == [[((), 0.0)]] * FEWEST_AT_ONCE
