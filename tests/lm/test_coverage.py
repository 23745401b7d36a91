"""A language model's words against what a recogniser can write."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
from made_models import model_of

from asr.config import TokenizerConfig
from asr.errors import InputError, InputWarning
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.coverage import check_vocabulary
from asr.lm.kneser_ney import estimate
from asr.search.factory import build_search
from asr.search.options import SearchOptions
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import Tokenizer, train_tokenizer

TEXT = ["the cat sat on the mat", "a dog ate the cat", "don't let the dog in"]
NORMALISER = get_normaliser("lowercase-apostrophe")


def arpa(path: Path, probabilities: dict[str, float]) -> Path:
    """A unigram model."""
    words = {"<unk>": 0.05, "<s>": 0.0, "</s>": 0.05} | probabilities
    lines = [f"{math.log10(p) if p else -99:.6f}\t{word}" for word, p in words.items()]
    head = f"\\data\\\nngram 1={len(words)}\n\n\\1-grams:\n"
    path.write_text(head + "\n".join(lines) + "\n\n\\end\\\n", encoding="utf-8")
    return path


@pytest.fixture(params=["char", "bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXT, TokenizerConfig(kind=request.param, vocab_size=20))


def test_upper_case_is_refused_with_what_to_do(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "upper.arpa"
    write_arpa(estimate([text.upper().split() for text in TEXT], order=2)[0], path)
    options = SearchOptions("beam", lm=path)
    with pytest.raises(
        InputError, match=r"upper.arpa: .* never writes 11 of its 11 words \(100 %"
    ) as e:
        build_search(options, model_of(tokenizer, tmp_path))
    assert "'THE'" in str(e.value)
    assert "spelling ('the')" in str(e.value)


def test_another_script_is_refused_with_the_letter(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = arpa(tmp_path / "x.arpa", {"кот": 0.6, "the": 0.3})
    with pytest.raises(
        InputError, match=r"1 of its 2 words \(66.7 %.*'кот'; there is no token for 'к'"
    ):
        build_search(SearchOptions("beam", lm=path), model_of(tokenizer, tmp_path))


def test_the_probability_counts_not_the_number_of_words(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rare = {f"the{char}": 0.001 for char in "éèêëàáâ"}
    path = arpa(tmp_path / "x.arpa", {"the": 0.5, "cat": 0.3} | rare)
    with pytest.warns(InputWarning, match=r"7 of its 9 words \(0.867 % .*'theà', 'theá', 'theâ'$"):
        check_vocabulary(read_arpa(path), path, tokenizer, NORMALISER)


def test_what_can_be_written_says_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = arpa(tmp_path / "x.arpa", {"the": 0.5, "don't": 0.3, "tennis": 0.1})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_search(SearchOptions("beam", lm=path), model_of(tokenizer, tmp_path))


def test_upper_case_is_right_where_the_recogniser_writes_it(tmp_path: Path) -> None:
    upper = [text.upper() for text in TEXT]
    tokenizer = train_tokenizer(upper, TokenizerConfig(kind="char"))
    model = estimate([text.split() for text in upper], order=2)[0]
    check_vocabulary(model, tmp_path, tokenizer, get_normaliser("none"))
    lower = estimate([text.split() for text in TEXT], order=2)[0]
    with pytest.raises(InputError, match="no token for 't'"):
        check_vocabulary(lower, tmp_path, tokenizer, get_normaliser("none"))
