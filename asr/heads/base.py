"""Interface of a head, which turns the encoder's output into the frames that searches read.

Encoder, audio and commands know frames and heads; only a head and its searches know what a frame holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


class Head(nn.Module):
    """A module that stands on the encoder.

    Attributes:
        layers: encoder layers (from 1) below the last whose outputs ``loss`` takes too.
        num_views: augmented views of each utterance that ``loss`` takes.
        num_channels: channels of a frame.
        max_tokens: tokens that a transcript may have at most; None: any number.
        reads_whole: whether a token is read off all frames of an utterance at once; its frames are
            the encoder's then, and it has no ``labels``.
    """

    layers: tuple[int, ...] = ()
    num_views: int = 1
    num_channels: int
    max_tokens: int | None = None
    reads_whole: bool = False

    def frames(self, encoded_btd: Tensor) -> Tensor:
        """Return frames (b, t, x): searches read them, windows and streams are joined from them.

        A frame depends on the encoder's frame at its place alone.
        """
        raise NotImplementedError

    def loss_of_frames(
        self, frames_btx: Tensor, lens_b: Tensor, tokens_bu: Tensor, token_lens_b: Tensor
    ) -> Tensor:
        """Return the loss (b) of each transcript, summed over its tokens: what validation reports."""
        raise NotImplementedError

    def loss(
        self,
        outputs: Sequence[Tensor],
        lens_b: Tensor,
        tokens_bu: Tensor,
        token_lens_b: Tensor,
    ) -> Tensor:
        """Return what training minimises, for each utterance (b).

        Args:
            outputs: (views * b, t, d) of each of ``layers``, then of the last layer; the first views of
                all utterances stand before the second ones. The others are as long.
        """
        raise NotImplementedError

    @staticmethod
    def frames_needed(tokens: Sequence[Any]) -> int:
        """Return the fewest frames with which a transcript can be trained on; 0: any number will do."""
        raise NotImplementedError

    def labels(self, frames_tx: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the token (t) that each frame most likely belongs to, the blank where nothing is said.

        Audio may be cut where no token has letters, and never between two frames of one token.
        """
        raise NotImplementedError
