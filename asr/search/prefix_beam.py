"""CTC prefix beam search: the likeliest transcripts, each summed over all of its alignments.

Graves, "Sequence transduction with recurrent neural networks" (2012), and Hannun et al.,
"First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs"
(2014). Per prefix two log-probabilities are kept, of its alignments that end in a blank and of
those that end in its last token, since only after a blank does a repeat begin a new token.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from asr.search.best_alignment import first_frames
from asr.search.hypothesis import Hypothesis, check_log_probs

_NEVER = -math.inf


def prefix_beam(
    log_probs_btv: Tensor,
    lens_b: Tensor,
    beam: int = 8,
    blank: int = 0,
    num_best: int = 1,
    token_beam: int | None = 16,
) -> list[list[Hypothesis]]:
    """The ``num_best`` likeliest transcripts of each utterance, best first.

    Args:
        log_probs_btv: (batch, frames, tokens), normalised natural-log probabilities.
        lens_b: (batch,), frames of each utterance; what lies beyond is never looked at.
        beam: prefixes kept after each frame.
        blank: id of CTC's blank.
        num_best: transcripts returned, at most ``beam`` (fewer where fewer exist).
        token_beam: tokens that may extend a prefix in one frame, the likeliest; None is all.

    Returns:
        Per utterance a list of hypotheses. A score is the log-probability of the transcript summed
        over the alignments that pruning left: minus ``torch.nn.functional.ctc_loss`` where nothing
        was pruned, never more than it.

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
    results = []
    for log_probs_tv, num_frames in zip(log_probs, lens_b.tolist(), strict=True):
        valid_tv = log_probs_tv[:num_frames]
        candidates_tk = _likeliest_tokens(valid_tv, blank, token_beam)
        finals = _search(valid_tv.tolist(), candidates_tk, beam, blank)[:num_best]
        frames_tv = valid_tv.numpy()
        results.append(
            [
                Hypothesis(final.tokens, final.score, first_frames(frames_tv, final.tokens, blank))
                for final in finals
            ]
        )
    return results


@dataclass(frozen=True)
class _Final:
    tokens: tuple[int, ...]
    score: float


class _Ends(NamedTuple):
    """Log-probabilities of a prefix: alignments ending in a blank, in its last token, both."""

    blank: float
    token: float
    total: float


class _PrefixTree:
    """Every prefix kept so far, as a number: 0 is the empty one, others extend a parent by a token.

    A scorer of text (n-gram, hotwords) would keep its state per number beside ``last_token``; it
    belongs into the rank by which ``_best`` chooses, not into the log-probabilities of ``_Ends``.
    """

    def __init__(self) -> None:
        self.last_token = [-1]
        self.parent = [-1]
        self._child: dict[tuple[int, int], int] = {}

    def find(self, prefix: int, token: int) -> int:
        """The number of ``prefix`` extended by ``token``, -1 where it was never kept."""
        return self._child.get((prefix, token), -1)

    def add(self, prefix: int, token: int) -> int:
        number = self._child.setdefault((prefix, token), len(self.parent))
        if number == len(self.parent):
            self.last_token.append(token)
            self.parent.append(prefix)
        return number

    def tokens(self, prefix: int) -> tuple[int, ...]:
        reversed_tokens = []
        while prefix:
            reversed_tokens.append(self.last_token[prefix])
            prefix = self.parent[prefix]
        return tuple(reversed_tokens[::-1])


def _search(
    log_probs_tv: Sequence[Sequence[float]],
    candidates_tk: Sequence[Sequence[int]],
    beam: int,
    blank: int,
) -> list[_Final]:
    """All prefixes in the beam after the last frame, likeliest first."""
    tree = _PrefixTree()
    kept: dict[int, _Ends] = {0: _Ends(0.0, _NEVER, 0.0)}
    for log_probs_v, candidates_k in zip(log_probs_tv, candidates_tk, strict=True):
        stays = {prefix: _stay(tree, kept, prefix, log_probs_v, blank) for prefix in kept}
        totals = heapq.nlargest(beam, (end.total for end in stays.values()))
        # Nothing at or below what the beam is already full of can enter it.
        floor = totals[-1] if len(totals) == beam else _NEVER
        new: list[tuple[float, int, int]] = []
        for prefix, end in kept.items():
            last = tree.last_token[prefix]
            for token in candidates_k:
                reached = end.total + log_probs_v[token]
                if reached <= floor:
                    break  # the candidates come likeliest first
                if token == last:  # a repeat is a new token only after a blank
                    reached = end.blank + log_probs_v[token]
                # A new prefix is reached from its parent alone; one in the beam has had it already.
                if reached > floor and tree.find(prefix, token) not in kept:
                    new.append((reached, prefix, token))
        kept = _best(tree, stays, new, beam)
    finals = [_Final(tree.tokens(prefix), end.total) for prefix, end in kept.items()]
    # Ties are broken by the tokens, so that a result never depends on the order of a dictionary.
    return sorted(finals, key=lambda final: (-final.score, final.tokens))


def _best(
    tree: _PrefixTree, stays: dict[int, _Ends], new: list[tuple[float, int, int]], beam: int
) -> dict[int, _Ends]:
    """The ``beam`` likeliest of the old and the new prefixes (log-probability, parent, token)."""
    ranked = [(end.total, prefix, -1) for prefix, end in stays.items()] + new
    kept: dict[int, _Ends] = {}
    for total, prefix, token in heapq.nlargest(beam, ranked, key=lambda item: item[0]):
        if token >= 0:
            kept[tree.add(prefix, token)] = _Ends(_NEVER, total, total)
        elif total > _NEVER:
            kept[prefix] = stays[prefix]
    return kept


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


def _likeliest_tokens(log_probs_tv: Tensor, blank: int, token_beam: int | None) -> list[list[int]]:
    """Per frame the ``token_beam`` likeliest tokens other than blank, likeliest first."""
    others = [v for v in range(log_probs_tv.shape[1]) if v != blank]
    count = len(others) if token_beam is None else min(token_beam, len(others))
    best_tk = log_probs_tv[:, others].topk(count, dim=1).indices
    return torch.tensor(others, dtype=torch.long)[best_tk].tolist()


def _log_add(a: float, b: float) -> float:
    """log(e^a + e^b)"""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
