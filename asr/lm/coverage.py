"""Whether a recogniser can write the words of a language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from asr.errors import InputError, warn
from asr.text.normalise import Normaliser
from asr.text.tokenizer import Tokenizer

MAX_FOREIGN_SHARE = 0.5
"""Largest share of the unigram probability that may lie on words that are never written."""
# Rarer strays (a word with an accent among 200,000) are not worth a line.
_MIN_TOLD_SHARE = 1e-3
_NUM_EXAMPLES = 3


class Unigrams(Protocol):
    """``vocabulary`` without special words, None where it is not known; natural log-probabilities."""

    @property
    def vocabulary(self) -> Sequence[str] | None: ...

    def unigram(self, word: str) -> float: ...


def check_vocabulary(
    model: Unigrams, path: Path, tokenizer: Tokenizer, normaliser: Normaliser
) -> None:
    """Compare a model's words with the recogniser's characters.

    Such a word is never found, and every word that is found counts as unknown. A model that does not
    list its words (KenLM's binary format) is not checked.

    Args:
        normaliser: the recogniser's, for what to advise.

    Raises:
        InputError: words with more than ``MAX_FOREIGN_SHARE`` of the unigram probability, or all
            words, have characters without a token. A smaller share is an ``InputWarning``.
    """
    words = model.vocabulary
    if not words:
        return
    unwritable = tokenizer.unwritable(set().union(*words))
    foreign = [word for word in words if not unwritable.isdisjoint(word)]
    if not foreign:
        return
    probability = {word: math.exp(model.unigram(word)) for word in words}
    foreign.sort(key=lambda word: (-probability[word], word))
    total = sum(probability.values())
    share = sum(probability[word] for word in foreign) / total if total > 0 else 1.0
    count_share = len(foreign) / len(words)
    examples = ", ".join(map(repr, foreign[:_NUM_EXAMPLES]))
    stated = (
        f"{path}: this model never writes {len(foreign)} of its {len(words)} words "
        f"({100 * share:.3g} % of their probability), as {examples}"
    )
    if share > MAX_FOREIGN_SHARE or len(foreign) == len(words):
        raise InputError(f"{stated}; {_advice(foreign[0], unwritable, tokenizer, normaliser)}")
    if max(share, count_share) >= _MIN_TOLD_SHARE:
        warn(stated)


def _advice(word: str, unwritable: set[str], tokenizer: Tokenizer, normaliser: Normaliser) -> str:
    spelled = normaliser(word)
    if spelled.strip() and not tokenizer.unwritable(spelled):
        return f"train it on text in the model's spelling ({spelled!r}), as asr lm train does"
    never = next(char for char in word if char in unwritable)
    return f"there is no token for {never!r}: take a language model of the recogniser's language"
