"""Entropy pruning of back-off n-gram models.

Stolcke, "Entropy-based pruning of backoff language models" (1998, arXiv cs/0006025): an n-gram is
removed where that raises the model's perplexity on its own distribution by little. The change is
computed for each n-gram alone, with the context's back-off weight as it is afterwards.

Kneser-Ney models suffer from that as it stands: their lower orders hold what the higher ones leave
over, which is neither how often a context is seen nor what should answer for an n-gram that is
removed (Chelba et al., "Study on interaction between entropy pruning and Kneser-Ney smoothing", 2010).
Therefore contexts are weighted with the model's stationary distribution, a removed n-gram is
compared with the relative frequency in that distribution, and the lower orders are fitted to the
n-grams that remain, see ``Backoff.fit_lower``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.lm.backoff import Backoff, Values, log10
from asr.lm.ngram import SPECIAL_WORDS, Level, NgramModel

_TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Pruned:
    """A smaller model.

    Attributes:
        threshold: n-grams whose removal raises the perplexity by this part or more were kept.
    """

    model: NgramModel
    threshold: float


def prune(
    model: NgramModel,
    threshold: float = 0.0,
    max_ngrams: int | None = None,
    max_words: int | None = None,
) -> Pruned:
    """Remove the n-grams that change a back-off model least.

    All words stay, and the first words of every n-gram that stays. Every context sums to one
    afterwards. A model of which nothing is removed is returned as it is. Memory is some 180 bytes
    per n-gram.

    Args:
        threshold: least relative change of the perplexity (0.01: by 1 %) of an n-gram that is kept.
        max_ngrams: of all orders together; raises the threshold as far as necessary.
        max_words: keep only the most frequent, beside ``<s>``, ``</s>`` and ``<unk>``, which gets
            the probability of the others.

    Raises:
        InputError: a value out of range, or fewer n-grams than words.
    """
    _check(threshold, max_ngrams, max_words)
    backoff = Backoff(model)
    marginals = backoff.marginals()
    words = _frequent(model, marginals[0], max_words)
    num_words = int(words.sum())
    if max_ngrams is not None and max_ngrams < num_words:
        raise InputError(
            f"at most {max_ngrams} n-grams: must be at least {num_words}, as all words stay, or fewer "
            "words must be kept (--words)"
        )
    for order in range(1, backoff.order):
        backoff.set_frequency(order, marginals)
    backoff.normalise()
    changes = _changes(backoff, marginals, words)
    if max_ngrams is not None:
        threshold = max(threshold, _threshold(changes, max_ngrams - num_words))
    kept = [change >= threshold for change in changes]
    if all(mask.all() for mask in kept):
        return Pruned(model, threshold)
    return Pruned(_cut(model, marginals, kept), threshold)


def perplexity_changes(backoff: Backoff, order: int, histories: Values) -> Values:
    """Return for each n-gram of an order (at least 2) by which part the perplexity would rise.

    exp(D) - 1 (Stolcke 1998), with D the relative entropy between the model and one in which the last
    word of the n-gram alone is backed off for.

    Args:
        histories: probability of each context of ``order - 1`` words.
    """
    grams, contexts = backoff.grams[order - 1], backoff.grams[order - 2]
    listed, listed_below = (values[grams.prefixes] for values in backoff.listed(order))
    left, left_below = np.maximum(1.0 - listed, 0.0), np.maximum(1.0 - listed_below, 0.0)
    prob, lower = grams.prob, backoff.lower(order)
    weight = np.maximum(left + prob, _TINY) / np.maximum(left_below + lower, _TINY)
    own = prob * np.log(np.maximum(prob, _TINY) / np.maximum(lower * weight, _TINY))
    others = left * np.log(contexts.backoff[grams.prefixes] / weight)
    return np.expm1(np.maximum(histories[grams.prefixes] * (own + others), 0.0))


def _check(threshold: float, max_ngrams: int | None, max_words: int | None) -> None:
    if not 0 <= threshold < math.inf:
        raise InputError(f"threshold = {threshold}: must be a number of 0 or more")
    for name, value in (("max_ngrams", max_ngrams), ("max_words", max_words)):
        if value is not None and value < 1:
            raise InputError(f"{name} = {value}: must be 1 or more")


def _frequent(model: NgramModel, frequency: Values, max_words: int | None) -> NDArray[np.bool_]:
    """Tell for each word whether it is special or among the most frequent."""
    kept = np.array([word in SPECIAL_WORDS for word in model.words])
    if max_words is None or max_words >= len(kept) - kept.sum():
        return np.ones(len(kept), dtype=bool)
    by_frequency = np.argsort(np.where(kept, 1.0, -frequency), kind="stable")
    kept[by_frequency[:max_words]] = True
    return kept


def _changes(
    backoff: Backoff, marginals: Sequence[Values], words: NDArray[np.bool_]
) -> list[Values]:
    """Return each n-gram's change of the perplexity, or that of an n-gram that begins with it if that
    is more: infinite for words that stay, negative for n-grams with one that does not."""
    found = [np.where(words, np.inf, -1.0)]
    has_words = words
    for order in range(2, backoff.order + 1):
        grams = backoff.grams[order - 1]
        has_words = has_words[grams.prefixes] & words[grams.lasts]
        change = perplexity_changes(backoff, order, marginals[order - 2])
        found.append(np.where(has_words, change, -1.0))
    for order in range(backoff.order, 1, -1):
        np.maximum.at(found[order - 2], backoff.grams[order - 1].prefixes, found[order - 1])
    return found


def _threshold(changes: Sequence[Values], room: int) -> float:
    """Return the least threshold that leaves so many n-grams of two and more words."""
    longer = np.concatenate([np.empty(0), *changes[1:]])
    if len(longer) <= room:
        return 0.0
    at = len(longer) - room - 1
    return max(0.0, float(np.nextafter(np.partition(longer, at)[at], np.inf)))


def _cut(
    model: NgramModel, marginals: Sequence[Values], kept: Sequence[NDArray[np.bool_]]
) -> NgramModel:
    """Return the model of these n-grams, its lower orders and back-off weights fitted to them."""
    kept = kept[: max(order for order, mask in enumerate(kept, start=1) if mask.any())]
    words = [word for word, keeps in zip(model.words, kept[0], strict=True) if keeps]
    numbers = np.cumsum(kept[0]) - 1
    levels: list[Level] = []
    rows = np.zeros(1, dtype=np.int64)
    for level, mask in zip(model.levels, kept, strict=False):
        prefixes, lasts = np.divmod(level.keys[mask], len(model.words))
        keys = rows[prefixes] * len(words) + numbers[lasts]
        levels.append(Level(keys, level.log10_prob[mask], level.log10_backoff[mask]))
        rows = np.cumsum(mask) - 1
    fitted = Backoff(NgramModel(words, levels))
    targets = [values[mask] for values, mask in zip(marginals, kept, strict=False)]
    targets[0][0] += marginals[0][~kept[0]].sum()  # <unk>
    # what was a lower order is the highest now, or <unk> got more
    if len(levels) < len(model.levels) or len(levels) == 1:
        fitted.set_frequency(len(levels), targets)
        fitted.normalise()
    fitted.fit_lower(targets)
    made = []
    for level, grams in zip(levels, fitted.grams, strict=True):
        # <s> has no probability, which files spell in different ways
        starts = grams.lasts == fitted.start
        log10_prob = np.where(starts, level.log10_prob, log10(grams.prob))
        made.append(Level(level.keys, log10_prob, log10(grams.backoff)))
    return NgramModel(words, made)
