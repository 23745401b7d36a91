"""CTC prefix beam search by acoustics alone, of all utterances of a batch at once.

What it finds is what ``prefix_beam`` finds with a scorer to which every text is worth nothing.

Shapes: b utterance, t frame, v token, k place in the beam (i, j where two meet), c candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Number = TypeVar("Number", np.float64, np.int64, np.uint64)
Found = tuple[tuple[int, ...], float]
"""Tokens, log-probability."""

_NOBODY = np.uint64(0)  # stands for no prefix: the empty one has no parent
_EMPTY = np.uint64(1)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth, multiplicative hashing)


@dataclass(frozen=True)
class _Beam:
    """The prefixes (b, k) of each utterance, best first; a place without one has probability 0.

    Attributes:
        blank, token: log-probabilities of the alignments that end in a blank and in the last token.
        prefix, parent: hashes of the prefix and of it without its last token.
        last: that token; -1 of the empty prefix.
    """

    blank: Floats
    token: Floats
    prefix: NDArray[np.uint64]
    parent: NDArray[np.uint64]
    last: Ints

    @classmethod
    def start(cls, num: int, beam: int) -> _Beam:
        never = np.full((num, beam), -np.inf)
        prefix = np.full((num, beam), _NOBODY)
        blank = never.copy()
        blank[:, 0], prefix[:, 0] = 0.0, _EMPTY
        return cls(blank, never, prefix, np.full_like(prefix, _NOBODY), np.full(never.shape, -1))

    def after(
        self, log_probs_bv: Floats, candidates_bc: Ints, gains_bc: Floats, blank: int
    ) -> tuple[_Beam, Ints, Ints]:
        """Return the beam after one more frame, and of each prefix the place it comes from and the token
        it got there: -1 is none."""
        size = self.last.shape[1]
        total_bk = np.logaddexp(self.blank, self.token)
        is_parent_bij = (self.prefix[:, :, None] == self.parent[:, None, :]) & (
            self.parent[:, None, :] != _NOBODY
        )
        in_blank_bk, in_token_bk = self._stay(total_bk, is_parent_bij, log_probs_bv, blank)
        # a repeat is a new token only after a blank
        repeats_bkc = self.last[:, :, None] == candidates_bc[:, None, :]
        reached_bkc = np.where(repeats_bkc, self.blank[:, :, None], total_bk[:, :, None])
        reached_bkc += gains_bc[:, None, :]
        # a new prefix is reached from its parent alone; one in the beam has had it already
        # (a product of matrices, which takes a tenth of the time of any())
        in_beam_bkc = is_parent_bij.astype(np.float32) @ repeats_bkc.astype(np.float32)
        reached_bkc[in_beam_bkc > 0] = -np.inf
        reached_bn = reached_bkc.reshape(len(self.last), -1)
        rank_bn = np.concatenate([np.logaddexp(in_blank_bk, in_token_bk), reached_bn], 1)
        # stable: of equals the one that comes first
        best_bk = np.argsort(-rank_bn, axis=1, kind="stable")[:, :size]
        return self._select(best_bk, in_blank_bk, in_token_bk, reached_bn, candidates_bc)

    def _stay(
        self, total_bk: Floats, is_parent_bij: NDArray[np.bool_], log_probs_bv: Floats, blank: int
    ) -> tuple[Floats, Floats]:
        """Return the log-probabilities of the same prefixes one frame later, ending in a blank and in a
        token."""
        repeats_bij = self.last[:, :, None] == self.last[:, None, :]
        before_bij = np.where(repeats_bij, self.blank[:, :, None], total_bk[:, :, None])
        from_parent_bj = np.where(is_parent_bij, before_bij, -np.inf).max(1)
        # the empty prefix has no last token: its probability is 0 whatever is added
        last_bk = _pick(log_probs_bv, np.maximum(self.last, 0))
        in_token_bk = np.logaddexp(self.token, from_parent_bj) + last_bk
        return total_bk + log_probs_bv[:, blank, None], in_token_bk

    def _select(
        self,
        best_bk: Ints,
        in_blank_bk: Floats,
        in_token_bk: Floats,
        reached_bn: Floats,
        candidates_bc: Ints,
    ) -> tuple[_Beam, Ints, Ints]:
        size, num_candidates = self.last.shape[1], candidates_bc.shape[1]
        stays_bk = best_bk < size
        new_bk = np.maximum(best_bk - size, 0)
        from_bk = np.where(stays_bk, best_bk, new_bk // num_candidates)
        token_bk = _pick(candidates_bc, new_bk % num_candidates)
        prefix_bk, parent_bk = _pick(self.prefix, from_bk), _pick(self.parent, from_bk)
        last_bk = _pick(self.last, from_bk)
        stayed_bk = np.minimum(best_bk, size - 1)
        beam = _Beam(
            np.where(stays_bk, _pick(in_blank_bk, stayed_bk), -np.inf),
            np.where(stays_bk, _pick(in_token_bk, stayed_bk), _pick(reached_bn, new_bk)),
            np.where(stays_bk, prefix_bk, _extended(prefix_bk, token_bk)),
            np.where(stays_bk, parent_bk, prefix_bk),
            np.where(stays_bk, last_bk, token_bk),
        )
        return beam._without_the_impossible(), from_bk, np.where(stays_bk, -1, token_bk)

    def _without_the_impossible(self) -> _Beam:
        """Return a beam whose places of probability 0 are empty, or they would hide what comes later."""
        never_bk = (self.blank == -np.inf) & (self.token == -np.inf)
        if not never_bk.any():
            return self
        prefix, parent = (np.where(never_bk, _NOBODY, one) for one in (self.prefix, self.parent))
        return _Beam(self.blank, self.token, prefix, parent, np.where(never_bk, -1, self.last))

    def where(self, rows_b: NDArray[np.bool_], other: _Beam) -> _Beam:
        """Return these rows, and the other beam's elsewhere."""
        return _Beam(
            *(
                np.where(rows_b[:, None], mine, theirs)
                for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
            )
        )


def search_batch(
    log_probs_btv: Floats,
    lens_b: Sequence[int],
    candidates_btc: Ints,
    gains_btc: Floats,
    beam: int,
    blank: int,
) -> list[list[Found]]:
    """Return the prefixes in the beam after the last frame of each utterance, best first.

    Args:
        candidates_btc: tokens that may extend a prefix in each frame.
        gains_btc: their log-probabilities; -inf of one that may not.
    """
    kept = _Beam.start(len(log_probs_btv), beam)
    from_tbk, token_tbk = [], []
    for t in range(max(lens_b, default=0)):
        runs_b = t < np.asarray(lens_b)
        later, from_bk, token_bk = kept.after(
            log_probs_btv[:, t], candidates_btc[:, t], gains_btc[:, t], blank
        )
        kept = later if runs_b.all() else later.where(runs_b, kept)
        from_tbk.append(np.where(runs_b[:, None], from_bk, np.arange(beam)))
        token_tbk.append(np.where(runs_b[:, None], token_bk, -1))
    total_bk = np.logaddexp(kept.blank, kept.token)
    place_bk = np.broadcast_to(np.arange(beam), total_bk.shape)
    tokens_tbk = []
    for from_bk, token_bk in zip(reversed(from_tbk), reversed(token_tbk), strict=True):
        tokens_tbk.append(_pick(token_bk, place_bk))
        place_bk = _pick(from_bk, place_bk)
    tokens_bkt = np.array(tokens_tbk[::-1]).reshape(-1, *total_bk.shape).transpose(1, 2, 0)
    results = []
    for tokens_kt, total_k in zip(tokens_bkt, total_bk.tolist(), strict=True):
        found = [
            (tuple(tokens_t[tokens_t >= 0].tolist()), total)
            for tokens_t, total in zip(tokens_kt, total_k, strict=True)
            if total > -np.inf
        ]
        results.append(sorted(found, key=lambda one: (-one[1], one[0])))
    return results


def _pick(x_bn: NDArray[Number], index_bk: Ints) -> NDArray[Number]:
    """Return these columns of each row; ``take_along_axis`` takes several times as long for few."""
    num_rows, num_columns = x_bn.shape
    return x_bn.reshape(-1)[index_bk + np.arange(0, num_rows * num_columns, num_columns)[:, None]]


def _extended(prefix: NDArray[np.uint64], token: Ints) -> NDArray[np.uint64]:
    """Return the hashes of prefixes with one more token; two of 2^64 are the same by chance alone."""
    mixed = (prefix ^ (prefix >> np.uint64(29))) * _ODD + token.astype(np.uint64) + np.uint64(2)
    return np.where(mixed == _NOBODY, _EMPTY, mixed)
