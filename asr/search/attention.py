"""The searches of an attention decoder: alone, together with CTC, and over what CTC has found.

They read the encoder's frames; those of CTC are made of them where a search asks CTC too.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from asr.heads.attention_decoder import AttentionDecoder
from asr.heads.base import Head
from asr.lm.neural import padded
from asr.nn.frames import Source
from asr.search.best_alignment import placed
from asr.search.ctc_prefix import CtcPrefixes
from asr.search.ctc_scores import ctc_scores
from asr.search.hypothesis import Hypothesis, NBest, Run, ScoreParts, rows_with_nan
from asr.search.label_beam import Found, Scorers, label_beam
from asr.search.text_score import TextScorer

# Beginnings of transcripts that a decoder scores at once on a CPU, whose caches more would not fit.
CPU_NODES = 4096


def decoder_run(
    head: AttentionDecoder,
    ctc: Head | None,
    ctc_weight: float,
    beam: int,
    num_best: int = 1,
    text: TextScorer | None = None,
) -> Run:
    """Return the search token by token.

    Args:
        ctc: gives the frames of the tokens, and with ``ctc_weight`` above 0 a share of the score; None:
            the model has none.
    """

    @torch.no_grad()
    def run(frames_bsd: Tensor, lens_b: Tensor) -> NBest:
        frames_bsd, lens_b = _checked(head, frames_bsd, lens_b)
        log_probs_bsv = None if ctc is None else ctc.frames(frames_bsd)
        prefixes = None
        if log_probs_bsv is not None and ctc_weight:
            prefixes = CtcPrefixes.of(log_probs_bsv, lens_b)
        scorers = Scorers(head, prefixes, ctc_weight, text)
        found = label_beam(scorers, frames_bsd, lens_b, beam, num_best)
        hypotheses = [
            [
                Hypothesis(one.tokens, one.score, (), one.parts, one.stopped)
                for one in several or [Found((), 0.0, "", ScoreParts(0.0, 0.0, 0, 0, 0.0))]
            ]
            for several in found
        ]
        return hypotheses if log_probs_bsv is None else placed(hypotheses, log_probs_bsv, lens_b)

    return run


def rescored_run(
    head: AttentionDecoder, ctc: Head, ctc_weight: float, first: Run, num_best: int
) -> Run:
    """Return the search that ranks what ``first`` finds in CTC's frames by both heads: the decoder looks
    at all transcripts of a batch at once.

    Args:
        first: may leave the frames of tokens out.
    """

    @torch.no_grad()
    def run(frames_bsd: Tensor, lens_b: Tensor) -> NBest:
        frames_bsd, lens_b = _checked(head, frames_bsd, lens_b)
        log_probs_bsv = ctc.frames(frames_bsd).double()  # once, for all that reads them
        found = first(log_probs_bsv, lens_b)
        scores = _scores_of_all(head, Source(frames_bsd, lens_b), log_probs_bsv, found)
        ranked = [
            _ranked(several, both, ctc_weight)[:num_best]
            for several, both in zip(found, scores, strict=True)
        ]
        return placed(ranked, log_probs_bsv, lens_b)

    return run


def _scores_of_all(
    head: AttentionDecoder, source: Source, log_probs_bsv: Tensor, found: NBest
) -> list[list[tuple[float, float]]]:
    """Return ``_both_scores``; on a CPU, of groups of utterances with similar numbers of
    beginnings: the decoder pads them."""
    if log_probs_bsv.device.type != "cpu":
        return _both_scores(head, source, log_probs_bsv, found)
    beginnings = [_num_beginnings([one.tokens for one in several]) for several in found]
    order = sorted(range(len(found)), key=beginnings.__getitem__)
    size = max(1, CPU_NODES // max(beginnings))
    scores: dict[int, list[tuple[float, float]]] = {}
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        part = source.select(torch.tensor(rows))
        several = [found[row] for row in rows]
        scores |= zip(rows, _both_scores(head, part, log_probs_bsv[rows], several), strict=True)
    return [scores[row] for row in range(len(found))]


def _num_beginnings(transcripts: Sequence[tuple[int, ...]]) -> int:
    """Return how many different beginnings some transcripts have, the empty one among them."""
    rising = [(), *sorted(transcripts)]
    shared = (
        sum(map(bool, itertools.accumulate(map(operator.eq, *two), operator.and_)))
        for two in itertools.pairwise(rising)
    )
    return 1 + sum(map(len, transcripts)) - sum(shared)


def _both_scores(
    head: AttentionDecoder, source: Source, log_probs_bsv: Tensor, found: NBest
) -> list[list[tuple[float, float]]]:
    """Return the log-probabilities of each transcript by CTC and by the decoder."""
    width = max(map(len, found))
    # as many for each utterance: those that are missing are empty
    rows = [
        tokens
        for several in found
        for tokens in [*(one.tokens for one in several), *[()] * (width - len(several))]
    ]
    tokens_nu, token_lens_n = (x.to(source.lens_b.device) for x in padded(rows))
    decoder_n = head.log_prob_of_each(source, tokens_nu, token_lens_n)
    # a beam leaves alignments out; this is the sum over all of them
    ctc_n = ctc_scores(log_probs_bsv, source.lens_b, tokens_nu, token_lens_n)
    both_bw2 = torch.stack([ctc_n, decoder_n.double().cpu()], 1).view(len(found), width, 2)
    return [
        [(ctc, decoder) for ctc, decoder in both_w2[: len(several)].tolist()]
        for several, both_w2 in zip(found, both_bw2, strict=True)
    ]


def _checked(head: AttentionDecoder, frames_bsd: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames and lengths where the decoder's weights are.

    Raises:
        ValueError: a NaN within an utterance.
    """
    if rows_with_nan(frames_bsd, lens_b).any():
        raise ValueError("frames_bsd holds NaN")
    device = head.decoder.embedding.weight.device
    return frames_bsd.to(device), lens_b.to(device)


def _ranked(
    several: Sequence[Hypothesis], both: Sequence[tuple[float, float]], ctc_weight: float
) -> list[Hypothesis]:
    """Return hypotheses, best first, with both heads' log-probabilities in the place of the acoustic
    score."""
    rescored = []
    for one, (ctc, decoder) in zip(several, both, strict=True):
        parts = one.parts or ScoreParts(one.score, 0.0, 0, 0, 0.0)
        acoustic = ctc_weight * ctc + (1.0 - ctc_weight) * decoder
        score = one.score - parts.acoustic + acoustic
        parts = ScoreParts(
            acoustic,
            parts.lm,
            parts.num_words,
            parts.num_unknown,
            parts.hotwords,
            parts.neural,
            ctc,
            decoder,
        )
        rescored.append(Hypothesis(one.tokens, score, one.frames, parts, one.stopped))
    return sorted(rescored, key=lambda one: (-one.score, one.tokens))
