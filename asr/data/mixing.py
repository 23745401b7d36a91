"""Corpora mixed by weight: which utterances an epoch plays, as a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr.data.draws import draw_many
from asr.errors import InputError


class Mixture:
    """Draws each epoch's utterances so that every corpus has its share of the audio.

    The corpus that its weight asks most of is played whole, once an epoch; of each other one an epoch
    plays a part, and successive epochs other parts until all was played (systematic sampling in an
    order drawn from the seed). Nothing is counted while training: any epoch can be the first.

    Attributes:
        rates: the share of each utterance's corpus that an epoch plays, in (0, 1].
        least: no epoch plays fewer utterances.
    """

    def __init__(
        self,
        keys: np.ndarray,
        durations_s: np.ndarray,
        sources: np.ndarray,
        weights: Sequence[float],
        seed: int,
    ) -> None:
        """
        Args:
            keys: each utterance's 64 bits, from a CutTable.
            durations_s: seconds of each utterance.
            sources: number of the corpus that each utterance comes from.
            weights: of each corpus' audio in what is played; only their ratios matter.

        Raises:
            InputError: not one weight for each corpus, or a weight that is not positive.
        """
        num_corpora = int(sources.max()) + 1
        if len(weights) != num_corpora or not all(0 < weight < np.inf for weight in weights):
            raise InputError(
                f"data.train_weights = {list(weights)}: give one number above 0 for each of the "
                f"{num_corpora} manifests of data.train"
            )
        corpus_s = np.bincount(sources, durations_s, minlength=num_corpora)
        if (corpus_s == 0).any():
            empty = int(np.flatnonzero(corpus_s == 0)[0])
            raise InputError(f"data.train[{empty}]: no utterance of it can be trained on")
        rates = np.array(weights) / corpus_s
        rates = rates / rates.max()
        self.rates = rates[sources]
        self.least = int(np.floor(rates * np.bincount(sources)).sum())
        # Places spread evenly over [0, 1) within each corpus make the count an epoch draws constant,
        # up to one.
        self._phases = np.empty(len(keys))
        drawn = draw_many(keys, seed, "mixture")
        for corpus in range(num_corpora):
            members = np.flatnonzero(sources == corpus)
            order = members[np.argsort(drawn[members], kind="stable")]
            self._phases[order] = (np.arange(len(order)) + 0.5) / len(order)

    def indices(self, epoch: int) -> np.ndarray:
        """The utterances of an epoch, each at most once, in rising order."""
        before = np.floor(epoch * self.rates + self._phases)
        return np.flatnonzero(np.floor((epoch + 1) * self.rates + self._phases) > before)
