"""Search token by token against every transcript there is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from asr import config
from asr.errors import InputError
from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.ctc import Ctc
from asr.heads.table import build_heads
from asr.nn.frames import Source
from asr.search.ctc_prefix import CtcPrefixes
from asr.search.label_beam import (
    FULL,
    LOOP,
    OUT_OF_PLACES,
    Found,
    Scorers,
    label_beam,
    repeats_itself,
)
from asr.search.text_score import TextScorer
from asr.search.units import Units

DIM, VOCAB = 8, 4
LENS = (4, 2, 0, 3)
UNITS = Units((False, True, False, True), ("", "a", "b", "c"))


def heads(seed: int = 0, *options: str) -> tuple[AttentionDecoder, Ctc]:
    torch.manual_seed(seed)
    small = [f"encoder.dim={DIM}", "attention.num_heads=2", "tokenizer.kind=char"]
    decoder = ["decoder.num_heads=2", "decoder.num_layers=1", "decoder.ff_dim=8"]
    chosen = ["model.heads=[ctc,attention]", "decoder.cross_weighting=sigmoid"]
    found = build_heads(config.load([], [*small, *decoder, *chosen, *options]), VOCAB)
    for module in found.values():
        module.eval()
        for weight in module.parameters():  # as trained: sure of what it says
            torch.nn.init.normal_(weight, std=1.0)
    attention, ctc = found["attention"], found["ctc"]
    assert isinstance(attention, AttentionDecoder)
    assert isinstance(ctc, Ctc)
    return attention, ctc


def batch() -> tuple[Tensor, Tensor]:
    frames_bsd, lens_b = torch.randn(len(LENS), max(LENS), DIM), torch.tensor(LENS)
    for row, length in enumerate(LENS):
        frames_bsd[row, length:] = torch.nan
    return frames_bsd, lens_b


def transcripts(length: int) -> Iterator[tuple[int, ...]]:
    for count in range(length + 1):
        yield from itertools.product(range(1, VOCAB), repeat=count)


def text_score(scorer: TextScorer | None, tokens: tuple[int, ...]) -> float:
    if scorer is None:
        return 0.0
    state = scorer.start()
    for token in tokens:
        state = scorer.extend(state, token)
    return scorer.finish(state).rank


def ranked(
    attention: AttentionDecoder,
    ctc: Ctc,
    frames_sd: Tensor,
    weight: float,
    scorer: TextScorer | None = None,
) -> list[tuple[float, tuple[int, ...]]]:
    """Every transcript that has at most a token for each frame, best first."""
    lens = torch.tensor([len(frames_sd)])
    scores = []
    for tokens in transcripts(len(frames_sd)):
        said, count = torch.tensor([tokens], dtype=torch.long), torch.tensor([len(tokens)])
        score = -(1 - weight) * float(attention.loss_of_frames(frames_sd[None], lens, said, count))
        if weight:
            frames = ctc.frames(frames_sd[None]).double()
            score -= weight * float(ctc.loss_of_frames(frames, lens, said, count))
        scores.append((score + text_score(scorer, tokens), tokens))
    if weight or scorer is not None:
        return sorted(scores, key=lambda item: (-item[0], item[1]))
    return sorted(scores, key=lambda item: (-item[0] / (len(item[1]) + 1), item[1]))


def searched(
    attention: AttentionDecoder,
    ctc: Ctc,
    weight: float,
    scorer: TextScorer | None = None,
    beam: int = 200,
    num_best: int = 3,
) -> tuple[list[list[Found]], Tensor]:
    torch.manual_seed(7)
    frames_bsd, lens_b = batch()
    prefixes = CtcPrefixes.of(ctc.frames(frames_bsd), lens_b) if weight else None
    scorers = Scorers(attention, prefixes, weight, scorer)
    return label_beam(scorers, frames_bsd, lens_b, beam, num_best), frames_bsd


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_wide_beam_finds_the_best_of_all_transcripts(
    weight: float, with_text: bool, seed: int
) -> None:
    attention, ctc = heads(seed)
    scorer = TextScorer(UNITS, None, word_bonus=0.7) if with_text else None
    found_b, frames_bsd = searched(attention, ctc, weight, scorer)
    assert found_b[2] == []
    for row in (0, 1, 3):
        expected = ranked(attention, ctc, frames_bsd[row, : LENS[row]], weight, scorer)[:3]
        assert [one.tokens for one in found_b[row]] == [tokens for _, tokens in expected]
        scores = [one.score for one in found_b[row]]
        assert scores == pytest.approx([score for score, _ in expected], abs=1e-4)
        for one in found_b[row]:
            assert one.stopped == ("" if len(one.tokens) < LENS[row] else FULL)
            assert (one.parts.ctc is not None) == (weight > 0)
            if one.parts.ctc is not None and one.parts.decoder is not None:
                mixed = weight * one.parts.ctc + (1 - weight) * one.parts.decoder
                assert one.parts.acoustic == pytest.approx(mixed)


@torch.no_grad()
def test_a_beam_of_one_takes_the_likeliest_token_each_time() -> None:
    attention, ctc = heads()
    found_b, frames_bsd = searched(attention, ctc, 0.0, beam=1, num_best=1)
    for row in (0, 1, 3):
        tokens: list[int] = []
        frames_bsd_1 = frames_bsd[row : row + 1, : LENS[row]]
        while len(tokens) < LENS[row]:
            scores = []
            for token in range(1, VOCAB):
                # the loss of the longer transcript without that of its end, by what the end adds
                scores.append(_log_prob_of_next(attention, frames_bsd_1, tokens, token))
            scores = [_log_prob_of_next(attention, frames_bsd_1, tokens, 0), *scores]
            best = max(range(VOCAB), key=lambda token: scores[token])
            if not best:
                break
            tokens.append(best)
        assert found_b[row][0].tokens == tuple(tokens)


def _log_prob_of_next(
    attention: AttentionDecoder, frames_bsd: Tensor, tokens: list[int], token: int
) -> float:
    from asr.nn.frames import Source

    given = torch.tensor([[0, *tokens]])
    source = Source(frames_bsd, torch.tensor([frames_bsd.shape[1]]))
    return float(attention.log_probs(given, source)[0, -1, token])


@torch.no_grad()
def test_others_of_the_batch_change_nothing() -> None:
    attention, ctc = heads()
    together, frames_bsd = searched(attention, ctc, 0.3, beam=3)
    for row in (0, 1, 3):
        alone_bsd, lens_b = frames_bsd[row : row + 1, : LENS[row]], torch.tensor([LENS[row]])
        scorers = Scorers(attention, CtcPrefixes.of(ctc.frames(alone_bsd), lens_b), 0.3)
        (alone,) = label_beam(scorers, alone_bsd, lens_b, 3, 3)
        assert [one.tokens for one in alone] == [one.tokens for one in together[row]]
        scores = [one.score for one in together[row]]
        assert [one.score for one in alone] == pytest.approx(scores, abs=1e-5)


def test_loops_are_found_wherever_they_begin() -> None:
    """Against strings: the last 24 letters or more are one sequence, eight times or more."""
    rng = random.Random(0)
    texts = [
        "ab" * 12,
        "abc" * 8,
        "a" * 24,
        "a" * 23,
        "abc" * 7,
        "ab" * 11,
        "abcd" * 8,
        "xyabcd" * 9,
    ]
    texts = [rng.choice(["", "b", "dca"]) + text + end for text in texts for end in ("", "a", "x")]
    for text in texts:
        periods = range(1, len(text) // 8 + 1)
        expected = any(
            text.endswith(text[-period:] * max(8, -(-24 // period)))
            for period in periods
            if period * max(8, -(-24 // period)) <= len(text)
        )
        tokens_nu = torch.tensor([[ord(letter) for letter in text]])
        assert repeats_itself(tokens_nu).tolist() == [expected], text


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_a_decoder_that_repeats_itself_is_stopped(weight: float) -> None:
    attention, _ = heads()
    assert attention.decoder.output is not None
    attention.decoder.output.weight.zero_()
    attention.decoder.output.bias.copy_(torch.tensor([-5.0, 0.0, -9.0, -9.0]))
    frames_bsd, lens_b = torch.randn(2, 300, DIM), torch.tensor([300, 10])
    # CTC has nothing against it
    log_probs_btv = torch.tensor([0.5, 0.5, 1e-9, 1e-9]).log().expand(2, 300, VOCAB)
    prefixes = CtcPrefixes.of(log_probs_btv, lens_b) if weight else None
    scorers = Scorers(attention, prefixes, weight)
    (long,), (short,) = label_beam(scorers, frames_bsd, lens_b, beam=1)
    assert (long.tokens, long.stopped) == ((1,) * 24, LOOP)
    # with CTC between two there must be a blank
    assert (short.tokens, short.stopped) == (((1,) * 5, "") if weight else ((1,) * 10, FULL))


@torch.no_grad()
@pytest.mark.parametrize("beam", [1, 3])
def test_no_transcript_goes_beyond_learned_positions(beam: int) -> None:
    """Of five places the first is the edge's."""
    attention, _ = heads(0, "decoder.position=learned", "decoder.num_positions=5")
    assert attention.decoder.output is not None
    attention.decoder.output.weight.zero_()
    attention.decoder.output.bias.copy_(torch.tensor([-5.0, 0.0, 0.1, 0.2]))
    frames_bsd, lens_b = torch.randn(2, 9, DIM), torch.tensor([9, 3])
    long, short = label_beam(Scorers(attention), frames_bsd, lens_b, beam)
    assert (long[0].tokens, long[0].stopped) == ((3,) * 4, OUT_OF_PLACES)
    assert (short[0].tokens, short[0].stopped) == ((3,) * 3, FULL)
    tokens_bu = torch.ones(1, 6, dtype=torch.long)
    with pytest.raises(InputError, match=r"num_positions = 5: .* 6 are asked for"):
        attention.log_probs(tokens_bu, Source(frames_bsd[:1], lens_b[:1]))
