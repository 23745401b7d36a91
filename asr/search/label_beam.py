"""Beam search token by token, for heads that read all frames of an utterance at once.

Every hypothesis of every utterance takes one token a step. Its rank is the decoder's log-probability
mixed with CTC's of a transcript that begins so (Watanabe et al. 2017, equation 18), and what it is
worth as text. Where the decoder alone decides, transcripts are compared by their score per token, the
end among them: sums favour short ones, the more so the more a training smoothed its labels (Murray and
Chiang 2018, arXiv 1808.10006). One that repeats itself, or is as long as the utterance has frames,
ends, so a search always does.

Shapes: b utterance, k place in its beam, c candidate for the next token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asr.heads.attention_decoder import EDGE, AttentionDecoder
from asr.nn.frames import Memory, Source
from asr.search.ctc_prefix import CtcPrefixes, PrefixState
from asr.search.hypothesis import ScoreParts
from asr.search.text_score import TextScorer, TextState

# Without text a hypothesis only loses rank; with it, words may win back about this much.
TEXT_MARGIN = 10.0
# Tokens for which text is asked, of each hypothesis: the likeliest.
TEXT_TOKENS = 16

LOOP_TIMES, LOOP_TOKENS = 8, 24

FULL = "it has as many tokens as the audio has frames"
OUT_OF_PLACES = "it has as many tokens as the decoder has positions"
LOOP = "it repeats itself"


@dataclass(frozen=True)
class Found:
    """A transcript that was found.

    Attributes:
        score: the weighted sum that ranks it.
        stopped: why it ended, where the decoder did not end it; empty where it did.
        parts: what the score is made of.
    """

    tokens: tuple[int, ...]
    score: float
    stopped: str
    parts: ScoreParts


@dataclass(frozen=True)
class Scorers:
    """Scorers that rank hypotheses: the decoder, CTC's prefixes and text.

    ``ctc_weight`` is CTC's share, the decoder's is the rest.
    """

    head: AttentionDecoder
    ctc: CtcPrefixes | None = None
    ctc_weight: float = 0.0
    text: TextScorer | None = None


def label_beam(
    scorers: Scorers, frames_bsd: Tensor, lens_b: Tensor, beam: int, num_best: int = 1
) -> list[list[Found]]:
    """Return the best transcripts of each utterance, best first; none where it has no frames.

    Args:
        frames_bsd: of the decoder's head.
        beam: hypotheses kept after each token.
    """
    search = _Search(scorers, frames_bsd, lens_b, beam, num_best)
    while search.rows:
        search.step()
    return [
        sorted(found, key=lambda one: (-search.worth(one), one.tokens))[:num_best]
        for found in search.found
    ]


class _Longer(NamedTuple):
    """Hypotheses one token longer (b, k, v): their ranks but for text, the log-probabilities by the
    decoder, and CTC's where it has a share."""

    rank_bkv: Tensor
    decoder_bkv: Tensor
    ctc_bkv: Tensor | None

    def of(self, parent_bk: Tensor, token_bk: Tensor) -> _Longer:
        """Return the same (b, k) of one token for each parent."""
        at_bk = parent_bk * self.rank_bkv.shape[2] + token_bk
        rank_bk, decoder_bk = (
            x.flatten(1).gather(1, at_bk) for x in (self.rank_bkv, self.decoder_bkv)
        )
        ctc_bk = None if self.ctc_bkv is None else self.ctc_bkv.flatten(1).gather(1, at_bk)
        return _Longer(rank_bk, decoder_bk, ctc_bk)


class _Search:
    """The utterances whose search has not ended, and what was found of all.

    Attributes:
        rows: the numbers of those utterances in the batch.
        found: of every utterance of the batch, transcripts that have ended.
    """

    def __init__(
        self, scorers: Scorers, frames_bsd: Tensor, lens_b: Tensor, beam: int, num_best: int
    ):
        self._beam, self._num_best = beam, num_best
        self.found: list[list[Found]] = [[] for _ in lens_b]
        there_b = (lens_b > 0).nonzero()[:, 0]
        self.rows: list[int] = there_b.tolist()
        lens_b, frames_bsd = lens_b[there_b], frames_bsd[there_b]
        self._head, self._text = scorers.head, scorers.text
        self._ctc = None if scorers.ctc is None else scorers.ctc.select(there_b)
        self._weight = scorers.ctc_weight
        self._is_per_token = scorers.ctc is None and scorers.text is None
        self._source, self._memory = Source(frames_bsd, lens_b, Memory()), Memory()
        self._tokens_bku = torch.full((len(lens_b), 1, 1), EDGE, device=lens_b.device)
        # the rank of a hypothesis but for text; -inf where there is none
        self._rank_bk = frames_bsd.new_zeros(len(lens_b), 1, dtype=torch.float64)
        self._decoder_bk = self._rank_bk
        self._state = None if self._ctc is None else self._ctc.start()
        start = None if self._text is None else self._text.start()
        self._texts_bk: list[list[TextState | None]] = [[start] for _ in self.rows]

    def worth(self, one: Found) -> float:
        """Return what transcripts are compared by."""
        return one.score / (len(one.tokens) + 1) if self._is_per_token else one.score

    def step(self) -> None:
        """Extend every hypothesis by a token, or end it."""
        longer = self._longer()
        tokens_bkc, rank_bkc = self._candidates(longer.rank_bkv)
        texts, text_bkc = self._as_text(tokens_bkc, rank_bkc)
        total_bn = (rank_bkc + text_bkc).flatten(1)
        best_bk, place_bk = total_bn.topk(min(self._beam, total_bn.shape[1]), 1)
        parent_bk = place_bk // rank_bkc.shape[2]
        token_bk = tokens_bkc.flatten(1).gather(1, place_bk)
        chosen = longer.of(parent_bk, token_bk)
        texts_bk = [
            [each[place] for place in places]
            for each, places in zip(texts, place_bk.tolist(), strict=True)
        ]
        ended_bk = token_bk == EDGE
        self._keep_ended(ended_bk, best_bk, parent_bk, chosen, texts_bk)
        alive_bk = best_bk.masked_fill(ended_bk, -torch.inf)
        self._advance(parent_bk, token_bk)
        self._decoder_bk, self._texts_bk = chosen.decoder_bkv, texts_bk
        self._rank_bk = chosen.rank_bkv.masked_fill(ended_bk, -torch.inf)
        self._drop_finished(alive_bk.amax(1).tolist())

    def _longer(self) -> _Longer:
        """Score hypotheses one token longer."""
        num, width = self._tokens_bku.shape[:2]
        last_n1 = self._tokens_bku[:, :, -1].reshape(-1, 1)
        log_probs_nv = self._head.log_probs(last_n1, self._source, self._memory)[:, -1]
        decoder_bkv = self._decoder_bk[..., None] + log_probs_nv.unflatten(0, (num, width))
        rank_bkv, ctc_bkv = decoder_bkv, None
        if self._ctc is not None and self._state is not None:
            ctc_bkv = self._ctc.scores(self._state)
            rank_bkv = (1.0 - self._weight) * decoder_bkv + self._weight * ctc_bkv
        rank_bkv = rank_bkv.masked_fill(self._rank_bk[..., None].isneginf(), -torch.inf)
        must_end_bk = self._is_full_b()[:, None] | self._is_loop_bk() | self._is_out_of_places
        no_token_v = torch.arange(rank_bkv.shape[2], device=rank_bkv.device) != EDGE
        rank_bkv = rank_bkv.masked_fill(must_end_bk[..., None] & no_token_v, -torch.inf)
        return _Longer(rank_bkv, decoder_bkv, ctc_bkv)

    def _is_full_b(self) -> Tensor:
        """Tell which utterances have no frame for another token."""
        return self._source.lens_b < self._tokens_bku.shape[2]

    @property
    def _is_out_of_places(self) -> bool:
        """Tell whether the decoder can be given no more tokens than these."""
        most = self._head.max_tokens
        return most is not None and self._tokens_bku.shape[2] > most

    def _is_loop_bk(self) -> Tensor:
        """Tell which hypotheses repeat themselves; asked at every eighth token, which is cheap."""
        if (self._tokens_bku.shape[2] - 1) % LOOP_TIMES:
            return torch.zeros_like(self._rank_bk, dtype=torch.bool)
        return repeats_itself(self._tokens_bku[..., 1:])

    def _candidates(self, rank_bkv: Tensor) -> tuple[Tensor, Tensor]:
        """Return (b, k, c) the end and the likeliest tokens after each hypothesis, and their ranks."""
        count = self._beam if self._text is None else max(self._beam, TEXT_TOKENS)
        rank_bkc, token_bkc = rank_bkv[..., EDGE + 1 :].topk(min(count, rank_bkv.shape[2] - 1), 2)
        end_bk1 = rank_bkv[..., EDGE : EDGE + 1]
        token_bkc = torch.cat([torch.full_like(token_bkc[..., :1], EDGE), token_bkc + 1], 2)
        return token_bkc, torch.cat([end_bk1, rank_bkc], 2)

    def _as_text(
        self, tokens_bkc: Tensor, rank_bkc: Tensor
    ) -> tuple[list[list[TextState | None]], Tensor]:
        """Return the states as text of all candidates, and what they are worth (b, k, c)."""
        num, width, count = tokens_bkc.shape
        if self._text is None:
            return [[None] * (width * count) for _ in range(num)], torch.zeros_like(rank_bkc)
        scorer = self._text
        texts: list[list[TextState | None]] = []
        possible_bkc = (~rank_bkc.isneginf()).tolist()
        for before_k, tokens_kc, possible_kc in zip(
            self._texts_bk, tokens_bkc.tolist(), possible_bkc, strict=True
        ):
            texts.append([])
            for before, tokens_c, possible_c in zip(before_k, tokens_kc, possible_kc, strict=True):
                for token, possible in zip(tokens_c, possible_c, strict=True):
                    if not possible or before is None:
                        texts[-1].append(None)
                    elif token == EDGE:
                        texts[-1].append(scorer.finish(before))
                    else:
                        texts[-1].append(scorer.extend(before, token))
        worth = [[0.0 if text is None else text.rank for text in each] for each in texts]
        return texts, rank_bkc.new_tensor(worth).view(num, width, count)

    def _keep_ended(
        self,
        ended_bk: Tensor,
        total_bk: Tensor,
        parent_bk: Tensor,
        chosen: _Longer,
        texts_bk: Sequence[Sequence[TextState | None]],
    ) -> None:
        """Remember the transcripts that have ended; all is (b, k)."""
        is_full_b = self._is_full_b().tolist()
        is_loop_bk = self._is_loop_bk().gather(1, parent_bk).tolist()
        for b, k in (ended_bk & ~total_bk.isneginf()).nonzero().tolist():
            text, acoustic = texts_bk[b][k], float(chosen.rank_bkv[b, k])
            tokens = tuple(self._tokens_bku[b, parent_bk[b, k], 1:].tolist())
            parts = ScoreParts(acoustic, 0.0, 0, 0, 0.0)
            if text is not None:
                parts = ScoreParts(
                    acoustic, text.lm, text.num_words, text.num_unknown, text.hotwords
                )
            if chosen.ctc_bkv is not None:
                ctc, decoder = float(chosen.ctc_bkv[b, k]), float(chosen.decoder_bkv[b, k])
                parts = replace(parts, ctc=ctc, decoder=decoder)
            stopped = LOOP if is_loop_bk[b][k] else FULL if is_full_b[b] else ""
            if not stopped and self._is_out_of_places:
                stopped = OUT_OF_PLACES
            found = Found(tokens, float(total_bk[b, k]), stopped, parts)
            self.found[self.rows[b]].append(found)

    def _advance(self, parent_bk: Tensor, token_bk: Tensor) -> None:
        """Put every hypothesis in the place of the parent whose extension it is."""
        num, width = self._tokens_bku.shape[:2]
        before_bku = self._tokens_bku.gather(
            1, parent_bk[..., None].expand(-1, -1, self._tokens_bku.shape[2])
        )
        self._tokens_bku = torch.cat([before_bku, token_bk[..., None]], 2)
        first_b1 = width * torch.arange(num, device=parent_bk.device)[:, None]
        self._memory.select((first_b1 + parent_bk).flatten())
        if self._ctc is not None and self._state is not None:
            state = _of_hypotheses(self._state, parent_bk)
            self._state = self._ctc.extend(state, token_bk)

    def _drop_finished(self, alive: Sequence[float]) -> None:
        """Leave the utterances in which nothing better can be found."""
        margin = 0.0 if self._text is None else TEXT_MARGIN
        if self._is_per_token:  # it can grow to one per frame, and only loses
            lens = self._source.lens_b.tolist()
            alive = [most / (length + 1) for most, length in zip(alive, lens, strict=True)]
        going = [
            b
            for b, (row, most) in enumerate(zip(self.rows, alive, strict=True))
            if most > self._least_of_best(row) - margin and most > -math.inf
        ]
        if len(going) == len(self.rows):
            return
        rows_b = torch.tensor(going, dtype=torch.long, device=self._tokens_bku.device)
        width = self._tokens_bku.shape[1]
        places_k = torch.arange(width, device=rows_b.device)
        self._memory.select((width * rows_b[:, None] + places_k).flatten())
        self._source = self._source.select(rows_b)
        self._tokens_bku, self._rank_bk = self._tokens_bku[rows_b], self._rank_bk[rows_b]
        self._decoder_bk = self._decoder_bk[rows_b]
        if self._ctc is not None and self._state is not None:
            self._ctc = self._ctc.select(rows_b)
            self._state = PrefixState(*(x[rows_b] for x in self._state))
        self.rows = [self.rows[b] for b in going]
        self._texts_bk = [self._texts_bk[b] for b in going]

    def _least_of_best(self, row: int) -> float:
        """Return the score that a transcript must exceed to be among the best."""
        scores = sorted(map(self.worth, self.found[row]), reverse=True)
        return scores[self._num_best - 1] if len(scores) >= self._num_best else -math.inf


def repeats_itself(tokens_nu: Tensor) -> Tensor:
    """Tell which transcripts (..., u) end in one sequence of tokens many times over: (...).

    Nobody says the same ``LOOP_TIMES`` times in a row; one or two tokens may be letters, of which a
    word has more.
    """
    length = tokens_nu.shape[-1]
    is_loop_n = torch.zeros(tokens_nu.shape[:-1], dtype=torch.bool, device=tokens_nu.device)
    for period in range(1, length // LOOP_TIMES + 1):
        span = max(period * LOOP_TIMES, LOOP_TOKENS)
        if span <= length:
            end_nu = tokens_nu[..., length - span :]
            is_loop_n |= (end_nu[..., period:] == end_nu[..., :-period]).all(-1)
    return is_loop_n


def _of_hypotheses(state: PrefixState, parent_bk: Tensor) -> PrefixState:
    index_bk1 = parent_bk[..., None].expand(-1, -1, state.blank_bkt.shape[2])
    return PrefixState(
        state.blank_bkt.gather(1, index_bk1),
        state.token_bkt.gather(1, index_bk1),
        state.last_bk.gather(1, parent_bk),
    )
