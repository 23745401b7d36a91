"""A language model of words from a file, whichever program reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr.errors import InputError
from asr.lm.arpa import read_arpa
from asr.lm.ngram import LN10, SENTENCE_END, NgramModel

_KENLM_SUFFIXES = (".bin", ".binary", ".klm")


class KenlmModel:
    """KenLM's binary format through KenLM's own module; it does not tell its vocabulary.

    Raises:
        InputError: the module is not installed, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            import kenlm
        except ImportError:
            raise InputError(
                f"{path}: reading KenLM's binary format needs its module: "
                f"pip install 'sigmoid-asr[kenlm]'; an ARPA file needs nothing"
            ) from None
        try:
            self._model = kenlm.Model(str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: KenLM cannot read it: {error}") from None
        self._new_state = kenlm.State

    @property
    def vocabulary(self) -> None:
        return None

    def __contains__(self, word: str) -> bool:
        return word in self._model

    def start(self) -> Any:
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, word: str) -> tuple[float, Any]:
        """(natural-log P(word | state), the state after it)."""
        after = self._new_state()
        return self._model.BaseScore(state, word, after) * LN10, after

    def end(self, state: Any) -> float:
        """Natural-log probability that the sentence ends here."""
        return self.score(state, SENTENCE_END)[0]

    def unigram(self, word: str) -> float:
        """Natural-log P(word) without a history."""
        state = self._new_state()
        self._model.NullContextWrite(state)
        return self.score(state, word)[0]


def load_word_model(path: Path) -> NgramModel | KenlmModel:
    """An ARPA file, or by its suffix (.bin, .binary, .klm) a binary one of KenLM's.

    Raises:
        InputError: it cannot be read.
    """
    return KenlmModel(path) if path.suffix in _KENLM_SUFFIXES else read_arpa(path)
