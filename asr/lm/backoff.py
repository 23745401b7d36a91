"""Arithmetic over all n-grams of a back-off model at once: normalisation, marginals, lower orders.

Everything is float64 and linear; a ``Level`` is float32 and logarithmic. n-grams of one order are
rows, in the order of their keys; ``-1`` stands for a row that does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.lm.ngram import SENTENCE_END, SENTENCE_START, Level, NgramModel

Rows = NDArray[np.int64]
Values = NDArray[np.float64]

LEAST = 1e-99
"""Smallest probability and back-off weight that is written: -99 in an ARPA file."""

# Of the probability that a context leaves: less is the rounding of an ARPA file's seven digits.
_ROUNDING = 1e-9
_MOST_STEPS = 100
_CONVERGED = 1e-6
# Refitting converges by a factor of 20 or more per pass.
_NUM_FITS = 3
# Of its frequency, what a word keeps in a lower order however well longer n-grams explain it.
_LEAST_SHARE = 1e-3
# Of a context's probability, what its listed words may take when refitted.
_MOST_LISTED = 0.99


@dataclass
class Grams:
    """All n-grams of one order.

    Attributes:
        suffixes: for each length from 1 to n the row of the last ``length`` words among the n-grams
            of that length, or -1.
        prob: P(last word | the words before). Zero for ``<s>``, which is never predicted.
        backoff: weight of the lower order after these n words.
    """

    prefixes: Rows
    lasts: Rows
    suffixes: list[Rows]
    prob: Values
    backoff: Values


class Backoff:
    """The n-grams of a model, of which contexts back off with weights that make them sum to one.

    Probabilities that sum to more are scaled down, those of the unigrams to a sum of one. Back-off
    weights are computed from them: the model's own are not used.
    """

    def __init__(self, model: NgramModel) -> None:
        self.num_words = len(model.words)
        self.start = model.words.index(SENTENCE_START)
        self.end = model.words.index(SENTENCE_END)
        self.grams: list[Grams] = []
        for level in model.levels:
            self.grams.append(self._grams(level))
        self.normalise()

    @property
    def order(self) -> int:
        return len(self.grams)

    def normalise(self) -> None:
        """Compute every back-off weight from the probabilities, from short contexts to long ones."""
        words = self.grams[0]
        words.prob /= words.prob.sum()
        for order, below in enumerate(self.grams[:-1], start=2):
            self._limit(order, 1.0)
            listed, listed_below = self.listed(order)
            left = np.maximum(1.0 - listed, 0.0)
            left_below = 1.0 - listed_below
            # where the listed words are all there are, no word is left to back off for
            some = left_below > _ROUNDING
            weight = left / np.where(some, left_below, 1.0)
            below.backoff = np.where(some, np.maximum(weight, LEAST), 1.0)
        self.grams[-1].backoff = np.ones(len(self.grams[-1].prob))

    def listed(self, order: int) -> tuple[Values, Values]:
        """Return for each context the sum over its listed words of P(w | h) and P(w | h without its
        first word)."""
        grams, num = self.grams[order - 1], len(self.grams[order - 2].prob)
        return (
            _sums(grams.prefixes, grams.prob, num),
            _sums(grams.prefixes, self.lower(order), num),
        )

    def lower(self, order: int) -> Values:
        """Return for each n-gram its last word's probability after a context that is a word shorter."""
        grams, contexts = self.grams[order - 1], self.grams[order - 2]
        prob = self.grams[0].prob[grams.suffixes[0]]
        for length in range(2, order):
            own = grams.suffixes[length - 1]
            context = contexts.suffixes[length - 2][grams.prefixes]
            weight = np.where(context >= 0, self.grams[length - 2].backoff[context], 1.0)
            prob = np.where(own >= 0, self.grams[length - 1].prob[own], prob * weight)
        return prob

    def marginals(self) -> list[Values]:
        """Return for each n-gram how often it is among all n-grams of an endless text of the model.

        This is the stationary distribution of the Markov chain whose states are the longest listed
        contexts. ``<s>`` follows every ``</s>`` and has its probability. Exact where every suffix of
        a listed n-gram is listed too.

        The product of a model's own conditional probabilities, which SRILM takes instead, starts from
        the unigrams. Those of Kneser-Ney count in how many places a word was seen: "francisco" is
        rare in them, though frequent after one word. The whole model has the text's frequencies, as
        its lower orders are made for that, so its stationary distribution has them for all orders.
        """
        found = [self._with_start(self.grams[0].prob.copy())]
        for grams in self.grams[1:]:
            found.append(found[-1][grams.prefixes] * grams.prob)
        for _ in range(_MOST_STEPS if self.order > 1 else 0):
            after = self._step(found)
            change = float(np.abs(after[0] - found[0]).sum())
            found = after
            if change < _CONVERGED:
                break
        return found

    def set_frequency(self, order: int, marginals: Sequence[Values]) -> None:
        """Set the probabilities of an order to the relative frequencies of its n-grams."""
        grams = self.grams[order - 1]
        total = marginals[order - 2][grams.prefixes] if order > 1 else np.ones(1)
        prob = marginals[order - 1] / np.maximum(total, LEAST)
        grams.prob = np.where(grams.lasts == self.start, 0.0, prob)

    def fit_lower(self, marginals: Sequence[Values]) -> None:
        """Set all orders but the highest so that the whole model has these marginals.

        An n-gram gets the frequency that the longer listed ones do not account for, divided by how
        often the model backs off to it. That is the condition from which Kneser and Ney derive their
        lower orders, for any set of listed n-grams: Roark, Allauzen and Riley, "Smoothed marginal
        distribution constraints for language modeling" (2013). Solved by iteration, as the back-off
        weights depend on the result.
        """
        for _ in range(_NUM_FITS if self.order > 1 else 0):
            rests = self._rests(self._histories(marginals))
            for length, rest in enumerate(rests, start=1):
                grams, own = self.grams[length - 1], marginals[length - 1]
                left = own - self._sum_before(marginals[length], length)
                left = np.maximum(left, _LEAST_SHARE * own)
                prob = np.minimum(left / np.maximum(rest, LEAST), 1.0)
                grams.prob = np.where(grams.lasts == self.start, 0.0, prob)
                if length > 1:
                    self._limit(length, _MOST_LISTED)
            self.normalise()

    def _limit(self, order: int, most: float) -> None:
        """Scale down the listed words of contexts that sum to more."""
        grams = self.grams[order - 1]
        listed = _sums(grams.prefixes, grams.prob, len(self.grams[order - 2].prob))
        grams.prob *= np.minimum(most / np.maximum(listed, LEAST), 1.0)[grams.prefixes]

    def _step(self, marginals: Sequence[Values]) -> list[Values]:
        """Move on by one word: the marginals of the n-grams from those of their contexts."""
        histories = self._histories(marginals)
        top = self.grams[-1]
        found = [histories[-1][top.prefixes] * top.prob]
        for length, rest in reversed([*enumerate(self._rests(histories), start=1)]):
            direct = self._sum_before(found[0], length)
            found.insert(0, direct + self.grams[length - 1].prob * rest)
        # the chain rule, with which it begins, gives contexts more or less than their last words have
        total = found[0].sum()
        return [self._with_start(found[0] / total), *(values / total for values in found[1:])]

    def _histories(self, marginals: Sequence[Values]) -> list[Values]:
        """Return how often each n-gram is a context: never after the end of the sentence."""
        return [
            np.where(grams.lasts == self.end, 0.0, own)
            for grams, own in zip(self.grams[:-1], marginals, strict=False)
        ]

    def _rests(self, histories: Sequence[Values]) -> list[Values]:
        """Return, for n-grams of 1 to order - 1 words, what their probability is multiplied with.

        That is the sum over all contexts that end in the n-gram's own and list nothing longer: of
        their probability, times the back-off weights on the way.
        """
        # what the contexts of a length give to the order below them
        given = histories[-1] * self.grams[-2].backoff
        found: list[Values] = []
        for length in range(self.order - 1, 0, -1):
            grams, above = self.grams[length - 1], self.grams[length]
            listed_above = self._sum_before(given[above.prefixes], length)
            if length == 1:
                total = given.sum()
            else:
                below, own = self.grams[length - 2], histories[length - 1]
                free = histories[length - 2] - self._sum_before(own, length - 1)
                context = np.maximum(free, 0.0) + self._sum_before(given, length - 1)
                given = context * below.backoff
                total = context[grams.prefixes]
            found.insert(0, np.maximum(total - listed_above, 0.0))
        return found

    def _sum_before(self, values: Values, length: int) -> Values:
        """Sum values of the n-grams of ``length + 1`` words over their first word."""
        suffixes = self.grams[length].suffixes[length - 1]
        listed = np.flatnonzero(suffixes >= 0)
        return _sums(suffixes[listed], values[listed], len(self.grams[length - 1].prob))

    def _with_start(self, words: Values) -> Values:
        words[self.start] = words[self.end]
        return words

    def _grams(self, level: Level) -> Grams:
        prefixes, lasts = np.divmod(level.keys, self.num_words)
        prob = np.maximum(10.0 ** level.log10_prob.astype(np.float64), LEAST)
        prob[lasts == self.start] = 0.0
        suffixes: list[Rows] = [lasts]
        if self.grams:
            below = self.grams[-1]
            for length, grams in enumerate(self.grams[1:], start=2):
                context = below.suffixes[length - 2][prefixes]
                wanted = context * self.num_words + lasts
                keys = grams.prefixes * self.num_words + grams.lasts
                suffixes.append(np.where(context >= 0, find(keys, wanted), -1))
            suffixes.append(np.arange(len(prob)))
        return Grams(prefixes, lasts, suffixes, prob, np.ones(len(prob)))


def find(keys: Rows, wanted: Rows) -> Rows:
    """Return the rows of keys in sorted ones, -1 where they are not among them."""
    if not len(keys):
        return np.full(len(wanted), -1)
    rows = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[rows] == wanted, rows, -1)


def _sums(rows: Rows, values: Values, num_rows: int) -> Values:
    """Sum the values that go to each row."""
    sums: Values = np.bincount(rows, values, minlength=num_rows).astype(np.float64)
    return sums


def log10(values: Values) -> NDArray[np.float32]:
    """Return what an ARPA file holds of linear values, at least -99."""
    return np.log10(np.maximum(values, LEAST)).astype(np.float32)
