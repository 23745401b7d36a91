"""CTC's probability of a transcript that begins so: what a search token by token asks of the frames.

Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", section
II-D.2. Over frames both recursions are linear, so they are cumulative sums and no loop.

Shapes: b utterance, k hypothesis of it, t frame (0 is before the first one), v token.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from asr.nn.frames import frame_mask
from asr.text.tokenizer import BLANK

# Below it a probability is as good as 0, and sums over an hour of frames stay exact.
_LEAST = -1e3


class PrefixState(NamedTuple):
    """Log-probabilities (b, k, t + 1) of a prefix's alignments to the first t frames that end in a
    blank, and of those that end in its last token; that token (b, k), -1 of the empty prefix."""

    blank_bkt: Tensor
    token_bkt: Tensor
    last_bk: Tensor


class CtcPrefixes(NamedTuple):
    """Frames that score prefixes and whole transcripts, for all tokens that may follow, at once.

    Attributes:
        lens_b: frames of each utterance.
        exist_bt: true on the frames that exist; elsewhere nothing is emitted.
        log_probs_btv, probs_btv: of the frames, in float64.
        blanks_bt: (b, t + 1) ``_sums`` of the blank.
    """

    lens_b: Tensor
    exist_bt: Tensor
    log_probs_btv: Tensor
    probs_btv: Tensor
    blanks_bt: Tensor

    @classmethod
    def of(cls, log_probs_btv: Tensor, lens_b: Tensor) -> CtcPrefixes:
        """Prepare normalised natural-log probabilities; anything may stand beyond the lengths."""
        exist_bt = frame_mask(lens_b, log_probs_btv.shape[1])
        exist_bt1 = exist_bt[..., None]
        log_probs_btv = log_probs_btv.double().clamp(min=_LEAST)
        probs_btv = log_probs_btv.exp().where(exist_bt1, 0.0)
        log_probs_btv = log_probs_btv.where(exist_bt1, _LEAST)
        return cls(lens_b, exist_bt, log_probs_btv, probs_btv, _sums(log_probs_btv[..., BLANK]))

    def start(self) -> PrefixState:
        """Return the state of the empty prefix, one hypothesis per utterance."""
        blank_b1t = self.blanks_bt[:, None]
        never_b1t = torch.full_like(blank_b1t, -torch.inf)
        last_b1 = torch.full_like(self.lens_b[:, None], -1)
        return PrefixState(blank_b1t, never_b1t, last_b1)

    def scores(self, state: PrefixState) -> Tensor:
        """Return the log-probabilities (b, k, v) that a transcript begins with the prefix and v.

        At the blank's place: that it is the prefix and nothing else.
        """
        blank_bkt, token_bkt = state.blank_bkt[..., :-1], state.token_bkt[..., :-1]
        before_bkt = torch.logaddexp(blank_bkt, token_bkt)
        scores_bkv = _log_product(before_bkt, self.probs_btv)
        # after itself a token is another one only behind a blank
        last_bk = state.last_bk.clamp(min=0)
        of_last_bkt = self._of(last_bk).where(self.exist_bt[:, None], -torch.inf)
        repeat_bk = torch.logsumexp(blank_bkt + of_last_bkt, -1)
        scores_bkv = scores_bkv.scatter(-1, last_bk[..., None], repeat_bk[..., None])
        end_bk1 = self.lens_b[:, None, None].expand(*last_bk.shape, 1)
        whole_bk1 = torch.logaddexp(
            state.blank_bkt.gather(-1, end_bk1), state.token_bkt.gather(-1, end_bk1)
        )
        return torch.cat([whole_bk1, scores_bkv[..., BLANK + 1 :]], -1)

    def extend(self, state: PrefixState, tokens_bk: Tensor) -> PrefixState:
        """Return the states of the prefixes, each one token longer."""
        repeats_bk1 = (tokens_bk == state.last_bk)[..., None]
        both_bkt = torch.logaddexp(state.blank_bkt, state.token_bkt)
        before_bkt = state.blank_bkt.where(repeats_bk1, both_bkt)[..., :-1]
        token_bkt = _chain(before_bkt, _sums(self._of(tokens_bk)))
        blank_bkt = _chain(token_bkt[..., :-1], self.blanks_bt[:, None])
        return PrefixState(blank_bkt, token_bkt, tokens_bk)

    def select(self, rows_b: Tensor) -> CtcPrefixes:
        """Return the same for some of the utterances."""
        return CtcPrefixes(*(x[rows_b] for x in self))

    def _of(self, tokens_bk: Tensor) -> Tensor:
        """Return the log-probabilities (b, k, t) of one token per hypothesis."""
        index_btk = tokens_bk[:, None].expand(-1, self.log_probs_btv.shape[1], -1)
        return self.log_probs_btv.gather(2, index_btk).transpose(1, 2)


def _sums(log_probs_t: Tensor) -> Tensor:
    """Return (..., t + 1): the log-probability that all of the first t frames are this token."""
    return torch.nn.functional.pad(log_probs_t.cumsum(-1), (1, 0))


def _chain(before_t: Tensor, sums_t: Tensor) -> Tensor:
    """Return (..., t + 1): of r_0 = 0, r_t = (r_(t-1) + before_(t-1)) p_t the logarithms, ``sums_t``
    being those of the running products of p."""
    ends_t = sums_t[..., 1:] + torch.logcumsumexp(before_t - sums_t[..., :-1], -1)
    return torch.nn.functional.pad(ends_t, (1, 0), value=-torch.inf)


def _log_product(log_a_bkt: Tensor, b_btv: Tensor) -> Tensor:
    """Return log(exp(a) @ b), each row of a scaled by its largest value."""
    most_bk1 = log_a_bkt.amax(-1, keepdim=True).clamp(min=-1e300)
    return ((log_a_bkt - most_bk1).exp() @ b_btv).log() + most_bk1
