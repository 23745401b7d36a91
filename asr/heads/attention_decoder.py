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
        logits_buv = self.decoder(tokens_bu, source, memory)
        return logits_buv.log_softmax(
            -1, dtype=torch.promote_types(logits_buv.dtype, torch.float32)
        )

    @staticmethod
    def frames_needed(tokens: Sequence[Any]) -> int:
        """One for each token: searches end after as many tokens as there are frames."""
        return len(tokens)

    def cross_entropy(
        self, source: Source, tokens_nu: Tensor, token_lens_n: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """Return the cross-entropy (n) of each transcript and its end, summed over its tokens.

        Args:
            tokens_nu: as many transcripts for each utterance of the source, one utterance's after the
                other's; padded with anything.
        """
        edge_n1 = tokens_nu.new_full((len(tokens_nu), 1), EDGE)
        exist_nu = frame_mask(token_lens_n, tokens_nu.shape[1])
        tokens_nu = torch.where(exist_nu, tokens_nu, EDGE)
        targets_nu = torch.cat([tokens_nu, edge_n1], 1)
        given_nu, beginnings = torch.cat([edge_n1, tokens_nu], 1), None
        if len(given_nu) > len(source.lens_b):
            beginnings = Beginnings.of(given_nu, token_lens_n + 1, len(source.lens_b))
        logits_nuv = self.decoder(given_nu, source, beginnings=beginnings)
        logits_nuv = logits_nuv.to(torch.promote_types(logits_nuv.dtype, torch.float32))
        loss_nu = nn.functional.cross_entropy(
            logits_nuv.transpose(1, 2), targets_nu, reduction="none", label_smoothing=smoothing
        )
        return torch.where(frame_mask(token_lens_n + 1, loss_nu.shape[1]), loss_nu, 0.0).sum(1)
