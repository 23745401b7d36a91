"""Attention decoder: predicts each token of a transcript from all frames and the tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asr.config import Config
from asr.heads.base import Head
from asr.nn.decoder import Decoder
from asr.nn.frames import Beginnings, Memory, Source, frame_mask
from asr.text.tokenizer import BLANK

# The blank is never said: it stands before the first token and, as a target, behind the last one.
EDGE = BLANK


class AttentionDecoder(Head):
    """A Transformer decoder; frames are the encoder's own output (b, s, d).

    The loss is the cross-entropy of each token and of the end, with ``decoder.label_smoothing`` of the
    target's probability spread evenly over the vocabulary (Szegedy et al. 2016, arXiv 1512.00567,
    section 7), times ``decoder.weight``.
    """

    reads_whole = True

    def __init__(self, config: Config, vocab_size: int):
        super().__init__()
        dim = config.encoder.dim
        self.decoder = Decoder(config.decoder, config.attention.backend, dim, vocab_size)
        self.num_channels = dim
        if config.decoder.position == "learned":  # the first place is the edge's
            self.max_tokens = config.decoder.num_positions - 1
        self._weight, self._smoothing = config.decoder.weight, config.decoder.label_smoothing

    def frames(self, encoded_btd: Tensor) -> Tensor:
        """Return the encoder's frames, in float32 at least."""
        return encoded_btd.to(torch.promote_types(encoded_btd.dtype, torch.float32))

    def loss_of_frames(
        self, frames_btx: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
    ) -> Tensor:
        """Return minus the log-probability (b) of each transcript and its end."""
        return self.cross_entropy(Source(frames_btx, lens_b), tokens_bu, token_lens_b)

    def loss(
        self, outputs: Sequence[Tensor], lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
    ) -> Tensor:
        source = Source(outputs[-1], lens_b)
        return self._weight * self.cross_entropy(source, tokens_bu, token_lens_b, self._smoothing)

    def log_probs(self, tokens_bu: Tensor, source: Source, memory: Memory | None = None) -> Tensor:
        """Return the log-probabilities (b, u, v) of what follows each token, in float32 at least."""
        return _log_softmax(self.decoder(tokens_bu, source, memory))

    @staticmethod
    def frames_needed(tokens: Sequence[Any]) -> int:
        """One for each token: searches end after as many tokens as there are frames."""
        return len(tokens)

    def cross_entropy(
        self, source: Source, tokens_bu: Tensor, token_lens_b: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Return the cross-entropy (b) of each transcript and its end, summed over its tokens.

        Args:
            tokens_bu: padded with anything.
        """
        given_bu, targets_bu = _with_edges(tokens_bu, token_lens_b)
        logits_buv = self.decoder(given_bu, source)
        logits_buv = logits_buv.to(torch.promote_types(logits_buv.dtype, torch.float32))
        loss_bu = nn.functional.cross_entropy(
            logits_buv.transpose(1, 2), targets_bu, reduction="none", label_smoothing=smoothing
        )
        return _sum_existing(loss_bu, token_lens_b)

    def log_prob_of_each(self, source: Source, tokens_nu: Tensor, token_lens_n: Tensor) -> Tensor:
        """Return the log-probability (n) of each of several transcripts of an utterance and its end.

        Args:
            tokens_nu: as many transcripts for each utterance of the source, one utterance's after the
                other's; padded with anything.
        """
        given_nu, targets_nu = _with_edges(tokens_nu, token_lens_n)
        beginnings = Beginnings.of(given_nu, token_lens_n + 1, len(source.lens_b))
        logits_bmv = self.decoder(given_nu, source, beginnings=beginnings)
        log_probs_bmv = _log_softmax(logits_bmv)
        log_probs_nu = log_probs_bmv.flatten(0, 1)[beginnings.node_nu, targets_nu]
        return _sum_existing(log_probs_nu, token_lens_n)


def _with_edges(tokens_bu: Tensor, lens_b: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the decoder is given at each place, and what follows it."""
    edge_b1 = tokens_bu.new_full((len(tokens_bu), 1), EDGE)
    tokens_bu = torch.where(frame_mask(lens_b, tokens_bu.shape[1]), tokens_bu, EDGE)
    return torch.cat([edge_b1, tokens_bu], 1), torch.cat([tokens_bu, edge_b1], 1)


def _sum_existing(x_bu: Tensor, token_lens_b: Tensor) -> Tensor:
    """Sum over the tokens of each transcript and its end."""
    return torch.where(frame_mask(token_lens_b + 1, x_bu.shape[1]), x_bu, 0.0).sum(1)


def _log_softmax(logits_buv: Tensor) -> Tensor:
    """Return log-probabilities in float32 at least."""
    return logits_buv.log_softmax(-1, dtype=torch.promote_types(logits_buv.dtype, torch.float32))
