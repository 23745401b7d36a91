"""Words, their times and confidences against enumeration and against the tokenizers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from asr.config import TokenizerConfig
from asr.search.best_alignment import align
from asr.search.greedy import greedy
from asr.search.hypothesis import Hypothesis
from asr.search.units import units_of
from asr.search.words import end_frames, words_of
from asr.text.tokenizer import Tokenizer, train_tokenizer

TEXTS = ["the quick brown fox", "a lazy dog's the quicker", "foxes bring brown bread", "a a a"]


def first_frames(
    log_probs_tv: NDArray[np.floating], tokens: Sequence[int], blank: int = 0
) -> tuple[int, ...]:
    (found,) = align(log_probs_tv[None], [len(log_probs_tv)], [tokens], blank)
    return found.first_frames


def tokenizers() -> list[Tokenizer]:
    return [
        train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=30))
        for kind in ("char", "bpe", "unigram")
    ]


@pytest.mark.parametrize("index", range(3))
def test_units_spell_what_the_tokenizer_decodes(index: int) -> None:
    tokenizer = tokenizers()[index]
    units = units_of(tokenizer)
    rng = np.random.default_rng(index)
    for text in TEXTS:
        assert units.spell(tokenizer.encode(text)) == text.split()
    for _ in range(300):
        # any sequence a search may come up with: unknowns, spaces in a row, at the ends
        tokens = rng.integers(1, tokenizer.vocab_size, rng.integers(0, 12)).tolist()
        assert units.spell(tokens) == tokenizer.decode(tokens).split()


@pytest.mark.parametrize("seed", range(40))
def test_first_and_end_frames_are_the_likeliest_alignments(seed: int) -> None:
    rng = np.random.default_rng(seed)
    log_probs_tv = np.log(rng.dirichlet([0.4] * 3, 7))
    tokens = tuple(rng.integers(1, 3, rng.integers(1, 4)).tolist())
    best: tuple[float, list[int], list[int]] = (-math.inf, [], [])
    for path in itertools.product(range(3), repeat=7):
        runs = [(token, len(list(run))) for token, run in itertools.groupby(path)]
        if tuple(token for token, _ in runs if token) != tokens:
            continue
        begins = list(itertools.accumulate((length for _, length in runs), initial=0))
        firsts = [begin for begin, (token, _) in zip(begins, runs, strict=False) if token]
        ends = [begin + run[1] for begin, run in zip(begins, runs, strict=False) if run[0]]
        score = float(sum(log_probs_tv[t, token] for t, token in enumerate(path)))
        best = max(best, (score, firsts, ends))
    firsts_found = first_frames(log_probs_tv, tokens)
    assert list(firsts_found) == best[1]
    assert list(end_frames(log_probs_tv, tokens, firsts_found)) == best[2]


def test_times_and_confidence_by_hand() -> None:
    tokenizer = train_tokenizer(["ab ba"], TokenizerConfig(kind="char"))  # 2 is the space
    a, b, space = tokenizer.encode("ab ")
    path = [0, a, a, b, 0, space, b, 0, a, a, 0]
    sure = [0.5, 0.6, 0.9, 0.8, 0.7, 0.7, 0.5, 0.9, 0.8, 0.5, 0.9]
    probs_tv = np.array([[(1 - p) / 4] * 5 for p in sure])
    probs_tv[np.arange(11), path] = sure
    log_probs = torch.tensor(np.log(probs_tv))[None]
    (found,) = greedy(log_probs, torch.tensor([11]))
    units, log_probs_tv = units_of(tokenizer), log_probs[0].numpy()
    words = words_of(found, log_probs_tv, units, frame_s=0.04, start_shift_s=0.0)
    assert [word.text for word in words] == ["ab", "ba"]
    assert [(w.start_s, w.end_s) for w in words] == [
        (pytest.approx(0.04), pytest.approx(0.16)),
        (pytest.approx(0.24), pytest.approx(0.40)),
    ]
    assert words[0].confidence == pytest.approx(math.sqrt(0.9 * 0.8))
    assert words[1].confidence == pytest.approx(math.sqrt(0.5 * 0.8))
    # earlier starts: not before the audio; what came before ends there
    early = words_of(found, log_probs_tv, units, 0.04, start_shift_s=-0.1)
    assert [(w.start_s, w.end_s) for w in early] == [
        (0.0, pytest.approx(0.14)),
        (pytest.approx(0.14), pytest.approx(0.40)),
    ]


def test_nothing_said_has_no_words() -> None:
    tokenizer = train_tokenizer(["ab ba"], TokenizerConfig(kind="char"))
    nothing = Hypothesis((), 0.0, ())
    assert words_of(nothing, np.zeros((0, 5)), units_of(tokenizer), 0.04) == []
