"""A back-off n-gram model: probabilities of words after words, by binary search in sorted arrays."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN_WORD, SENTENCE_START, SENTENCE_END = "<unk>", "<s>", "</s>"
SPECIAL_WORDS = (UNKNOWN_WORD, SENTENCE_START, SENTENCE_END)

LN10 = math.log(10.0)

State = tuple[int, ...]
"""Rows of the n-grams that the history ends in, of 1 word, of 2, ...; -1 where there is none."""


@dataclass(frozen=True)
class Level:
    """All n-grams of one order, in increasing order of their keys.

    Attributes:
        keys: int64: the row of the first n - 1 words in the level below, times the number of words,
            plus the last word; for unigrams the word alone, so that a row is a word.
        log10_prob, log10_backoff: float32, as an ARPA file has them.
    """

    keys: NDArray[np.int64]
    log10_prob: NDArray[np.float32]
    log10_backoff: NDArray[np.float32]


class NgramModel:
    """P(word | history) with Katz's back-off form: the longest n-gram that is known, times the
    back-off weights of the longer histories.

    16 bytes per n-gram. Words are numbers inside; ``words[0]`` is ``<unk>``, which stands for every
    word that the model does not know.
    """

    def __init__(self, words: Sequence[str], levels: Sequence[Level]) -> None:
        self.words = list(words)
        self.levels = list(levels)
        assert self.words[0] == UNKNOWN_WORD
        self._ids = {word: number for number, word in enumerate(self.words)}
        # element access through a memoryview gives Python numbers, several times faster than numpy
        self._keys = [level.keys.data for level in levels]
        self._probs = [level.log10_prob.data for level in levels]
        self._backoffs = [level.log10_backoff.data for level in levels]

    @property
    def order(self) -> int:
        return len(self.levels)

    @property
    def vocabulary(self) -> list[str]:
        """The words that it knows, without the special ones, sorted."""
        return sorted(set(self.words) - set(SPECIAL_WORDS))

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def start(self) -> State:
        """The state before a sentence."""
        return (self._ids[SENTENCE_START],) if self.order > 1 else ()

    def score(self, state: State, word: str) -> tuple[float, State]:
        """(natural-log P(word | state), the state after it)."""
        number = self._ids.get(word, 0)
        rows = [number]
        log10_prob, matched = self._probs[0][number], 0
        for length, history in enumerate(state, start=1):
            row = -1
            if history >= 0 and length < self.order:
                row = _find(self._keys[length], history * len(self.words) + number)
            if row >= 0:
                log10_prob, matched = self._probs[length][row], length
            rows.append(row)
        for length in range(matched, len(state)):
            if state[length] >= 0:
                log10_prob += self._backoffs[length][state[length]]
        del rows[self.order - 1 :]
        while rows and rows[-1] < 0:
            rows.pop()
        return log10_prob * LN10, tuple(rows)

    def end(self, state: State) -> float:
        """Natural-log probability that the sentence ends here."""
        return self.score(state, SENTENCE_END)[0]

    def unigram(self, word: str) -> float:
        """Natural-log P(word) without a history."""
        return self._probs[0][self._ids.get(word, 0)] * LN10


@dataclass(frozen=True)
class Perplexity:
    """Attributes:
    num_words: without the ends of sentences.
    num_unknown: words that the model does not know.
    log_prob: natural, of everything.
    unknown_log_prob: the part of it that unknown words have.
    """

    num_sentences: int
    num_words: int
    num_unknown: int
    log_prob: float
    unknown_log_prob: float

    @property
    def with_unknown(self) -> float:
        """Per word and sentence end, unknown words counted at the probability of ``<unk>``."""
        return math.exp(-self.log_prob / (self.num_words + self.num_sentences))

    @property
    def without_unknown(self) -> float:
        """Per known word and sentence end."""
        num = self.num_words - self.num_unknown + self.num_sentences
        return math.exp(-(self.log_prob - self.unknown_log_prob) / num)


def perplexity(model: NgramModel, sentences: Iterable[Sequence[str]]) -> Perplexity:
    """How well the model predicts sentences, ends included."""
    num_sentences = num_words = num_unknown = 0
    log_probs: list[float] = []
    unknown: list[float] = []
    for sentence in sentences:
        state = model.start()
        num_sentences += 1
        num_words += len(sentence)
        for word in sentence:
            log_prob, state = model.score(state, word)
            log_probs.append(log_prob)
            if word not in model:
                num_unknown += 1
                unknown.append(log_prob)
        log_probs.append(model.end(state))
    return Perplexity(
        num_sentences, num_words, num_unknown, math.fsum(log_probs), math.fsum(unknown)
    )


def _find(keys: Sequence[int], key: int) -> int:
    row = bisect_left(keys, key)
    return row if row < len(keys) and keys[row] == key else -1
