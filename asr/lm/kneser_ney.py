"""Interpolated modified Kneser-Ney smoothing: an n-gram model from sentences.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1999), section
3 and equations 26 and 27: three discounts per order, from how many n-grams were seen once to four
times. As usual (and as KenLM does): lower orders count the distinct words before an n-gram, but
those that begin a sentence, before which nothing can stand, count how often they were seen; the
unigrams are interpolated with the uniform distribution over the words, ``</s>`` and ``<unk>``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.lm.ngram import (
    SENTENCE_END,
    SENTENCE_START,
    SPECIAL_WORDS,
    UNKNOWN_WORD,
    Level,
    NgramModel,
)

MAX_ORDER = 5

# Where an order has too few n-grams, or too regular ones, to estimate its discounts from.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)

_START = 1  # the number of <s>


@dataclass(frozen=True)
class Discounts:
    """What is taken from a count of one, of two, of three and more.

    ``estimated`` is false where equation 26 has no answer and ``FALLBACK_DISCOUNTS`` stand in.
    """

    values: tuple[float, float, float]
    estimated: bool


@dataclass(frozen=True)
class _Counts:
    """The distinct n-grams of one order, by key (see ``Level``).

    Attributes:
        counts: how often each was seen or, once adjusted, in how many places.
        suffixes: the row of its last n - 1 words in the level below.
        begins: whether it begins a sentence.
        row_at: for each position of the text the row of the n-gram that ends there, -1 where a
            sentence is too short for one.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    suffixes: NDArray[np.int64]
    begins: NDArray[np.bool_]
    row_at: NDArray[np.int64]


def estimate(
    sentences: Iterable[Sequence[str]], order: int = 3
) -> tuple[NgramModel, list[Discounts]]:
    """A model of every n-gram in the text (nothing is pruned), and the discounts of each order.

    Raises:
        InputError: no word at all, a special word in the text, an order out of range.
    """
    if not 1 <= order <= MAX_ORDER:
        raise InputError(f"order = {order}: must be from 1 to {MAX_ORDER}")
    words, text, place = _number(sentences)
    levels = [_count_words(text, place, len(words))]
    for length in range(2, order + 1):
        levels.append(_count_longer(levels[-1], text, place, length, len(words)))
    adjusted = [
        np.where(
            level.begins, level.counts, np.bincount(longer.suffixes, minlength=len(level.keys))
        )
        for level, longer in itertools.pairwise(levels)
    ] + [levels[-1].counts]
    adjusted[0][_START] = 0  # nobody predicts the start of a sentence

    discounts = [_discounts(counts) for counts in adjusted]
    # the order below the unigrams: uniform over everything but <s>
    prob: NDArray[np.float64] = np.full(1, 1.0 / (len(words) - 1))
    probs, backoffs = [], []
    for level, counts, discount in zip(levels, adjusted, discounts, strict=True):
        prefixes = level.keys // len(words)
        prob_direct, gamma = _discounted(counts, prefixes, len(prob), discount.values)
        prob = prob_direct + gamma[prefixes] * prob[level.suffixes]
        probs.append(prob)
        backoffs.append(gamma)
    backoffs.append(np.ones(len(prob)))
    made = [
        Level(level.keys, _log10(prob), _log10(backoff))
        for level, prob, backoff in zip(levels, probs, backoffs[1:], strict=True)
    ]
    made[0].log10_prob[_START] = 0.0
    return NgramModel(words, made), discounts


def _number(
    sentences: Iterable[Sequence[str]],
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """(words by number, the text as numbers with its sentence marks, the place in the sentence)."""
    numbers = {word: number for number, word in enumerate((UNKNOWN_WORD, SENTENCE_START))}
    numbers[SENTENCE_END] = 2
    text: list[int] = []
    lengths: list[int] = []
    for sentence in sentences:
        if not sentence:
            continue
        if found := set(sentence) & set(SPECIAL_WORDS):
            raise InputError(
                f"the text has the word {min(found)!r}, which has a meaning of its own"
            )
        text.append(_START)
        text.extend(numbers.setdefault(word, len(numbers)) for word in sentence)
        text.append(numbers[SENTENCE_END])
        lengths.append(len(sentence) + 2)
    if not text:
        raise InputError("there is no text to estimate a language model from")
    # Sorted, so that a model does not depend on the order of its sentences.
    words = [*SPECIAL_WORDS, *sorted(set(numbers) - set(SPECIAL_WORDS))]
    renumbered = np.empty(len(words), dtype=np.int64)
    renumbered[[numbers[word] for word in words]] = np.arange(len(words))
    place = np.concatenate([np.arange(length) for length in lengths])
    return words, renumbered[np.array(text)], place


def _count_words(text: NDArray[np.int64], place: NDArray[np.int64], num_words: int) -> _Counts:
    return _Counts(
        keys=np.arange(num_words),
        counts=np.bincount(text, minlength=num_words),
        suffixes=np.zeros(num_words, dtype=np.int64),
        begins=np.arange(num_words) == _START,
        row_at=text,
    )


def _count_longer(
    below: _Counts, text: NDArray[np.int64], place: NDArray[np.int64], length: int, num_words: int
) -> _Counts:
    """N-grams of ``length`` words, from those of one word less."""
    ends = np.flatnonzero(place >= length - 1)
    keys, first, row, counts = np.unique(
        below.row_at[ends - 1] * num_words + text[ends],
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    row_at = np.full(len(text), -1, dtype=np.int64)
    row_at[ends] = row
    return _Counts(
        keys=keys,
        counts=counts,
        suffixes=below.row_at[ends[first]],
        begins=place[ends[first]] == length - 1,
        row_at=row_at,
    )


def _discounts(counts: NDArray[np.int64]) -> Discounts:
    """Equation 26: D_k = k - (k + 1) Y n_{k+1} / n_k with Y = n_1 / (n_1 + 2 n_2)."""
    n = [int((counts == k).sum()) for k in range(5)]
    if all(n[k] for k in (1, 2, 3)):
        y = n[1] / (n[1] + 2 * n[2])
        values = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        if all(0 < value <= k for k, value in enumerate(values, start=1)):
            return Discounts((values[0], values[1], values[2]), estimated=True)
    return Discounts(FALLBACK_DISCOUNTS, estimated=False)


def _discounted(
    counts: NDArray[np.int64],
    prefixes: NDArray[np.int64],
    num_prefixes: int,
    discounts: Sequence[float],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(what each n-gram keeps, what each history gives to the order below: gamma of equation 27)."""
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    total = np.bincount(prefixes, weights=counts, minlength=num_prefixes)
    left_over = np.bincount(prefixes, weights=taken, minlength=num_prefixes)
    seen = total > 0  # what never was a history backs off freely
    gamma = np.where(seen, left_over / np.where(seen, total, 1.0), 1.0)
    return (counts - taken) / total[prefixes], gamma


def _log10(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.log10(values).astype(np.float32)
