"""CTC prefix beam search: the likeliest transcripts, each summed over all of its alignments.

Graves, "Sequence transduction with recurrent neural networks" (2012), and Hannun et al.,
"First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs"
(2014). Per prefix two log-probabilities are kept, of its alignments that end in a blank and of
those that end in its last token, since only after a blank does a repeat begin a new token.

A language model adds to the rank by which prefixes are kept, never to those log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from asr.nn.frames import frame_mask
from asr.search.best_alignment import placed
from asr.search.hypothesis import Hypothesis, NBest, ScoreParts, check_log_probs
from asr.search.prefix_batch import search_batch
from asr.search.text_score import TextScorer, TextState

# Below so many utterances operations on arrays take longer than the steps that they save.
FEWEST_AT_ONCE = 8
_NEVER = -math.inf
_RANK = itemgetter(0)


def prefix_beam(
    log_probs_btv: Tensor,
    lens_b: Tensor,
    beam: int = 8,
    blank: int = 0,
    num_best: int = 1,
    token_beam: int | None = 16,
    token_margin: float = math.inf,
    scorer: TextScorer | None = None,
    has_frames: bool = True,
) -> NBest:
    """The ``num_best`` best transcripts of each utterance, best first.

    Args:
        log_probs_btv: (batch, frames, tokens), normalised natural-log probabilities.
        lens_b: (batch,), frames of each utterance; what lies beyond is never looked at.
        beam: prefixes kept after each frame.
        blank: id of CTC's blank.
        num_best: transcripts returned, at most ``beam`` (fewer where fewer exist).
        token_beam: tokens that may extend a prefix in one frame, the likeliest; None is all.
        token_margin: a token extends none where its log-probability is that far below the
            frame's highest.
        scorer: what prefixes are worth as text; None: nothing, the acoustics decide alone.
        has_frames: whether the frames of tokens are wanted; without them ``placed`` finds them later.

    Returns:
        Per utterance a list of hypotheses. The acoustic score is the log-probability of the
        transcript summed over the alignments that pruning left: minus
        ``torch.nn.functional.ctc_loss`` where nothing was pruned, never more than it. The scorer's
        is added to it, and the hypothesis has the parts.

    Raises:
        ValueError: a count below 1, ``num_best`` above ``beam``; see also ``check_log_probs``.
    """
    for name, value in (("beam", beam), ("num_best", num_best), ("token_beam", token_beam)):
        if value is not None and value < 1:
            raise ValueError(f"{name} = {value}: must be at least 1")
    if num_best > beam:
        raise ValueError(f"num_best = {num_best}: must be at most beam = {beam}")
    check_log_probs(log_probs_btv, lens_b, blank)
    log_probs = log_probs_btv.detach().to("cpu", torch.float64)
    # numbers that may be anything are no numbers to compute with
    exist_bt = frame_mask(lens_b.to("cpu"), log_probs.shape[1])
    log_probs = log_probs.where(exist_bt[..., None], 0.0)
    lens = lens_b.tolist()
    tokens_btk, gains_btk = _likeliest_tokens(log_probs, blank, token_beam, token_margin)
    if scorer is None and len(lens) >= FEWEST_AT_ONCE and tokens_btk.numel():
        arrays = (log_probs.numpy(), lens, tokens_btk.numpy(), gains_btk.numpy())
        found = search_batch(*arrays, beam, blank)
        finals_b: list[list[_Final]] = [[(*one, None) for one in several] for several in found]
    else:
        finals_b = [
            _search_one(log_probs_tv[:length], tokens_tk, gains_tk, beam, blank, scorer)
            for log_probs_tv, length, tokens_tk, gains_tk in zip(
                log_probs, lens, tokens_btk, gains_btk, strict=True
            )
        ]
    results = [
        [Hypothesis(tokens, score, (), parts) for tokens, score, parts in finals[:num_best]]
        for finals in finals_b
    ]
    return placed(results, log_probs, lens_b, blank) if has_frames else results


_Final = tuple[tuple[int, ...], float, ScoreParts | None]
"""Tokens, score, parts of the score."""


class _Ends(NamedTuple):
    """Log-probabilities of a prefix: alignments ending in a blank, in its last token, both."""

    blank: float
    token: float
    total: float


class _PrefixTree:
    """Every prefix kept so far, as a number: 0 is the empty one, others extend a parent by a token.

    Attributes:
        rank: what each prefix is worth as text.
        most: the most that it can be worth with one more token.
    """

    def __init__(self) -> None:
        self.last_token = [-1]
        self.parent = [-1]
        self.rank = [0.0]
        self.most = [0.0]
        self._child: dict[tuple[int, int], int] = {}

    def find(self, prefix: int, token: int) -> int:
        """The number of ``prefix`` extended by ``token``, -1 where it was never kept."""
        return self._child.get((prefix, token), -1)

    def add(self, prefix: int, token: int) -> int:
        number = self._child.setdefault((prefix, token), len(self.parent))
        if number == len(self.parent):
            self.last_token.append(token)
            self.parent.append(prefix)
            self._rate(prefix, token)
        return number

    def rank_of(self, prefix: int, token: int) -> float:
        """Return what ``prefix`` extended by ``token`` is worth as text."""
        return 0.0

    def finish(self, kept: dict[int, _Ends]) -> list[_Final]:
        """The prefixes as transcripts, best first."""
        return _in_order([(self.tokens(prefix), end.total, None) for prefix, end in kept.items()])

    def tokens(self, prefix: int) -> tuple[int, ...]:
        reversed_tokens = []
        while prefix:
            reversed_tokens.append(self.last_token[prefix])
            prefix = self.parent[prefix]
        return tuple(reversed_tokens[::-1])

    def _rate(self, prefix: int, token: int) -> None:
        self.rank.append(0.0)
        self.most.append(0.0)


class _ScoredTree(_PrefixTree):
    """The same with a scorer's opinion of every prefix."""

    def __init__(self, scorer: TextScorer) -> None:
        super().__init__()
        self._scorer = scorer
        # of every prefix, and of every extension that was ever considered
        self._text = [scorer.start()]
        self._extended: dict[tuple[int, int], TextState] = {}
        self.most[0] = self._text[0].most

    def rank_of(self, prefix: int, token: int) -> float:
        found = self._extended.get((prefix, token))
        if found is None:
            found = self._scorer.extend(self._text[prefix], token)
            self._extended[prefix, token] = found
        return found.rank

    def finish(self, kept: dict[int, _Ends]) -> list[_Final]:
        finals: list[_Final] = []
        for prefix, end in kept.items():
            text = self._scorer.finish(self._text[prefix])
            parts = ScoreParts(end.total, text.lm, text.num_words, text.num_unknown, text.hotwords)
            finals.append((self.tokens(prefix), end.total + text.rank, parts))
        return _in_order(finals)

    def _rate(self, prefix: int, token: int) -> None:
        text = self._extended[prefix, token]
        self._text.append(text)
        self.rank.append(text.rank)
        self.most.append(text.most)


def _in_order(finals: list[_Final]) -> list[_Final]:
    """Ties are broken by the tokens, so that a result never depends on the order of a dictionary."""
    return sorted(finals, key=lambda final: (-final[1], final[0]))


def _search_one(
    log_probs_tv: Tensor,
    tokens_tk: Tensor,
    gains_tk: Tensor,
    beam: int,
    blank: int,
    scorer: TextScorer | None,
) -> list[_Final]:
    """Return the transcripts of an utterance, best first."""
    tree = _PrefixTree() if scorer is None else _ScoredTree(scorer)
    counts = (gains_tk > _NEVER).sum(dim=1).tolist()
    candidates = [
        tokens_k[:count] for tokens_k, count in zip(tokens_tk.tolist(), counts, strict=True)
    ]
    steps = zip(log_probs_tv.tolist(), candidates, strict=False)
    return tree.finish(_search(tree, steps, beam, blank))


def _search(
    tree: _PrefixTree,
    steps: Iterable[tuple[Sequence[float], Sequence[int]]],
    beam: int,
    blank: int,
) -> dict[int, _Ends]:
    """All prefixes in the beam after the last step; one has a frame's log-probabilities and the tokens
    that may extend prefixes in it, likeliest first."""
    kept: dict[int, _Ends] = {0: _Ends(0.0, _NEVER, 0.0)}
    for log_probs_v, candidates_k in steps:
        stays = {prefix: _stay(tree, kept, prefix, log_probs_v, blank) for prefix in kept}
        ranked = [(end.total + tree.rank[prefix], prefix, -1) for prefix, end in stays.items()]
        # Nothing at or below what the beam is already full of can enter it.
        floor = _trim(ranked, beam)
        for prefix, end in kept.items():
            last = tree.last_token[prefix]
            most = end.total + tree.most[prefix]
            for token in candidates_k:
                if most + log_probs_v[token] <= floor:
                    break  # the candidates come likeliest first
                # a repeat is a new token only after a blank
                reached = (end.blank if token == last else end.total) + log_probs_v[token]
                if reached == _NEVER:
                    continue
                rank = reached + tree.rank_of(prefix, token)
                # A new prefix is reached from its parent alone; one in the beam has had it already.
                if rank > floor and tree.find(prefix, token) not in kept:
                    ranked.append((rank, prefix, token))
            if len(ranked) > beam:
                floor = _trim(ranked, beam)
        kept = _best(tree, kept, stays, ranked, log_probs_v)
    return kept


def _trim(ranked: list[tuple[float, int, int]], beam: int) -> float:
    """Keep the ``beam`` best, best first, of equals those that came first, and return the rank that
    others must be above."""
    ranked.sort(key=_RANK, reverse=True)  # of few, which a heap would not sort sooner
    del ranked[beam:]
    return ranked[-1][0] if len(ranked) == beam else _NEVER


def _best(
    tree: _PrefixTree,
    kept: dict[int, _Ends],
    stays: dict[int, _Ends],
    ranked: list[tuple[float, int, int]],
    log_probs_v: Sequence[float],
) -> dict[int, _Ends]:
    """The old prefixes (token -1) and the new ones (rank, parent, token) that are in the beam."""
    best: dict[int, _Ends] = {}
    for rank, prefix, token in ranked:
        if token >= 0:
            repeats = token == tree.last_token[prefix]
            end = kept[prefix]
            reached = (end.blank if repeats else end.total) + log_probs_v[token]
            best[tree.add(prefix, token)] = _Ends(_NEVER, reached, reached)
        elif rank > _NEVER:
            best[prefix] = stays[prefix]
    return best


def _stay(
    tree: _PrefixTree, kept: dict[int, _Ends], prefix: int, log_probs_v: Sequence[float], blank: int
) -> _Ends:
    """One frame later: after a blank, its last token again, or that token after its parent."""
    end = kept[prefix]
    in_blank = end.total + log_probs_v[blank]
    if not prefix:
        return _Ends(in_blank, _NEVER, in_blank)
    last = tree.last_token[prefix]
    in_token = end.token
    parent = tree.parent[prefix]
    if parent in kept:
        # A repeat is a new token only after a blank.
        repeats = tree.last_token[parent] == last
        in_token = _log_add(in_token, kept[parent].blank if repeats else kept[parent].total)
    in_token += log_probs_v[last]
    return _Ends(in_blank, in_token, _log_add(in_blank, in_token))


def _likeliest_tokens(
    log_probs_btv: Tensor, blank: int, token_beam: int | None, margin: float
) -> tuple[Tensor, Tensor]:
    """Per frame the ``token_beam`` likeliest tokens other than blank (b, t, k), likeliest first, and
    their log-probabilities: -inf of those more than ``margin`` below the frame's highest."""
    others = [v for v in range(log_probs_btv.shape[2]) if v != blank]
    count = len(others) if token_beam is None else min(token_beam, len(others))
    best_btk, index_btk = log_probs_btv[..., others].topk(count, dim=2)
    if margin < math.inf:
        least_bt1 = log_probs_btv.amax(dim=2, keepdim=True) - margin
        best_btk = best_btk.masked_fill(best_btk < least_bt1, _NEVER)
    return torch.tensor(others, dtype=torch.long)[index_btk], best_btk


def _log_add(a: float, b: float) -> float:
    """log(e^a + e^b)"""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
