"""What a prefix is worth as text: n-gram model, word bonus, hotwords; for prefix beam search.

A word is scored when it is complete. Until then it is lent the best unigram probability among the
words that it may still become, so that the beam compares prefixes within a word fairly with those
that have just ended one; hypotheses in the end are free of such loans.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from asr.search.hotwords import Hotwords, Matches
from asr.search.units import Units

_MAX_REMEMBERED = 1_000_000  # entries of a cache before it starts afresh
_LAST_CHARACTER = chr(0x10FFFF)


class WordModel(Protocol):
    """A language model of words; log-probabilities are natural. A state is hashable.

    ``vocabulary`` is None where the model can only be asked about single words: then nothing is
    lent for words that are being spelled.
    """

    @property
    def vocabulary(self) -> Sequence[str] | None: ...

    def __contains__(self, word: str) -> bool: ...

    def start(self) -> Any: ...

    def score(self, state: Any, word: str) -> tuple[float, Any]: ...

    def end(self, state: Any) -> float: ...

    def unigram(self, word: str) -> float: ...


class TextState(NamedTuple):
    """A prefix as text.

    Attributes:
        rank: the weighted score with what is lent for the word that is being spelled.
        most: no prefix that is one token longer has a higher rank.
        banked: the weighted score of the complete words.
        word: the letters of that word so far, empty between words.
        lm, num_words, num_unknown, hotwords: of the complete words.
    """

    rank: float
    most: float
    banked: float
    word: str
    lm_state: Any
    lm: float
    num_words: int
    num_unknown: int
    hotwords: float
    matches: Matches


class TextScorer:
    """score = lm_weight ln P(words) + word_bonus words - unknown_penalty unknown words + hotwords.

    Unknown are the words that neither the model nor a hotword knows; the model gives them its
    probability of ``<unk>`` besides. A large penalty allows only words that are known.
    """

    def __init__(
        self,
        units: Units,
        model: WordModel | None,
        lm_weight: float = 0.0,
        word_bonus: float = 0.0,
        unknown_penalty: float = 0.0,
        hotwords: Hotwords | None = None,
    ) -> None:
        """
        Args:
            units: of the recogniser's tokenizer.
            model: None: no language model, and no word is unknown.
        """
        self._units = units
        self._model = model
        self._lm_weight = lm_weight
        self._word_bonus = word_bonus
        self._unknown_penalty = unknown_penalty
        self._hotwords = hotwords
        self._favoured = hotwords.words if hotwords is not None else set()
        vocabulary = model.vocabulary if model is not None else None
        self._sorted = sorted({*vocabulary, *self._favoured}) if vocabulary is not None else None
        self._unigrams = np.array(
            [model.unigram(word) for word in self._sorted or ()] if model else ()
        )
        self._scores: dict[tuple[Any, str], tuple[float, Any]] = {}
        self._loans: dict[str, float] = {}

    def start(self) -> TextState:
        lm_state = self._model.start() if self._model else None
        return TextState(0.0, self._most(0.0), 0.0, "", lm_state, 0.0, 0, 0, 0.0, ())

    def extend(self, state: TextState, token: int) -> TextState:
        """The state of a prefix one token longer."""
        if self._units.begins_v[token] and state.word:
            state = self._end_word(state)
        letters = self._units.letters_v[token]
        if not letters:
            return state
        word = state.word + letters
        rank = state.banked + self._word_bonus + self._loan(word)
        matches = state.matches
        if self._hotwords is not None:
            matches = self._hotwords.spell(matches, letters, begins_word=not state.word)
            rank += self._hotwords.lent(matches)
        return TextState(rank, state.most, state.banked, word, *state[4:-1], matches)

    def finish(self, state: TextState) -> TextState:
        """The state at the end of the sentence, with its probability; ``rank`` is the score."""
        if state.word:
            state = self._end_word(state)
        log_prob = self._model.end(state.lm_state) if self._model else 0.0
        banked = state.banked + self._lm_weight * log_prob
        return state._replace(rank=banked, banked=banked, lm=state.lm + log_prob, matches=())

    def _end_word(self, state: TextState) -> TextState:
        log_prob, lm_state = self._score(state.lm_state, state.word)
        unknown = (
            self._model is not None
            and state.word not in self._model
            and state.word not in self._favoured
        )
        banked = state.banked + self._lm_weight * log_prob + self._word_bonus
        if unknown:
            banked -= self._unknown_penalty
        lent, earned, matches = 0.0, 0.0, state.matches
        if self._hotwords is not None:
            earned, matches = self._hotwords.end_word(matches)
            lent = self._hotwords.lent(matches)
            banked += earned
        return TextState(
            rank=banked + lent,
            most=self._most(banked),
            banked=banked,
            word="",
            lm_state=lm_state,
            lm=state.lm + log_prob,
            num_words=state.num_words + 1,
            num_unknown=state.num_unknown + unknown,
            hotwords=state.hotwords + earned,
            matches=matches,
        )

    def _most(self, banked: float) -> float:
        """A token ends one word and begins another one at most; probabilities only take away. What
        hotwords may earn has no simple bound."""
        return math.inf if self._hotwords is not None else banked + 2 * max(0.0, self._word_bonus)

    def _score(self, lm_state: Any, word: str) -> tuple[float, Any]:
        if self._model is None:
            return 0.0, None
        found = self._scores.get((lm_state, word))
        if found is None:
            if len(self._scores) >= _MAX_REMEMBERED:
                self._scores.clear()
            found = self._scores[lm_state, word] = self._model.score(lm_state, word)
        return found

    def _loan(self, begun: str) -> float:
        """The weighted score of the most frequent word that begins so."""
        if self._model is None or self._sorted is None:
            return 0.0
        loan = self._loans.get(begun)
        if loan is None:
            if len(self._loans) >= _MAX_REMEMBERED:
                self._loans.clear()
            first = bisect_left(self._sorted, begun)
            end = bisect_right(self._sorted, begun + _LAST_CHARACTER, first)
            if end > first:
                loan = self._lm_weight * float(self._unigrams[first:end].max())
            else:
                loan = self._lm_weight * self._model.unigram(begun) - self._unknown_penalty
            self._loans[begun] = loan
        return loan
