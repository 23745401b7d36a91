"""Beam search with a language model and hotwords against enumeration and hand-computed scores."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from made_models import model_of
from torch import Tensor

from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.files import file_hash
from asr.lm.arpa import write_arpa
from asr.lm.kneser_ney import estimate
from asr.lm.load import KenlmModel, load_word_model
from asr.lm.ngram import NgramModel
from asr.search.factory import build_search
from asr.search.hotwords import Hotwords
from asr.search.hypothesis import ScoreParts
from asr.search.options import SearchOptions
from asr.search.prefix_beam import prefix_beam
from asr.search.text_score import TextScorer
from asr.search.units import units_of
from asr.search.weights import DEFAULT_WEIGHTS, Tuned, Weights, write_tuned
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import Tokenizer, train_tokenizer

NORMALISER = get_normaliser("lowercase-apostrophe")
EVERYTHING = 100_000  # a beam that prunes nothing in these sizes
TEXT = ["a ab b", "ab ab", "b a", "a b ab", "ba b", "ab b b", "a", "aab a", "b"]
WEIGHTS = [(0.0, 0.0, 0.0), (0.7, 0.0, 0.0), (0.5, 1.3, 2.0), (1.1, -0.8, 6.0)]


def tokenizer_of(kind: str) -> Tokenizer:
    return train_tokenizer(TEXT, TokenizerConfig(kind=kind, vocab_size=8))


@pytest.fixture(scope="module")
def model() -> NgramModel:
    # "aab" and "ba" are words that the recogniser can write and the model does not know
    known = [text.split() for text in TEXT if not {"aab", "ba"} & set(text.split())]
    return estimate(known, order=3)[0]


def random_log_probs(num_frames: int, num_tokens: int, seed: int, sharpness: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, num_frames, num_tokens, generator=generator, dtype=torch.float64)
    return (logits * sharpness).log_softmax(-1)


def acoustic_log_probs(log_probs_tv: Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every transcript, summed over all its alignments."""
    rows = log_probs_tv.tolist()
    probs: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for path in itertools.product(range(len(rows[0])), repeat=len(rows)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token)
        probs[tokens].append(
            math.exp(sum(row[token] for row, token in zip(rows, path, strict=True)))
        )
    return {tokens: math.log(math.fsum(terms)) for tokens, terms in probs.items()}


def occurrences(phrase: str, words: list[str]) -> int:
    wanted = phrase.split()
    return sum(words[i : i + len(wanted)] == wanted for i in range(len(words)))


def expected_parts(
    acoustic: float, words: list[str], model: NgramModel, hotwords: dict[str, float]
) -> ScoreParts:
    """Sentence by sentence, with nothing of the search's machinery."""
    favoured = {word for phrase in hotwords for word in phrase.split()}
    state, lm = model.start(), 0.0
    for word in words:
        log_prob, state = model.score(state, word)
        lm += log_prob
    return ScoreParts(
        acoustic=acoustic,
        lm=lm + model.end(state),
        num_words=len(words),
        num_unknown=sum(word not in model and word not in favoured for word in words),
        hotwords=sum(occurrences(phrase, words) * bonus for phrase, bonus in hotwords.items()),
    )


@pytest.mark.parametrize("hot", [{}, {"ba": 2.0, "a b": 1.5, "b": 0.4, "ab b ab": -3.0}])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("kind", "num_frames"), [("char", 6), ("bpe", 4)])
def test_unpruned_beam_is_the_enumeration(
    model: NgramModel,
    kind: str,
    num_frames: int,
    weights: tuple[float, float, float],
    hot: dict[str, float],
) -> None:
    tokenizer = tokenizer_of(kind)
    lm_weight, word_bonus, unknown_penalty = weights
    log_probs = random_log_probs(num_frames, tokenizer.vocab_size, seed=len(hot), sharpness=1.5)
    hotwords = Hotwords(hot) if hot else None
    scorer = TextScorer(units_of(tokenizer), model, *weights, hotwords)
    lens = torch.tensor([num_frames])
    (found,) = prefix_beam(
        log_probs, lens, EVERYTHING, num_best=EVERYTHING, token_beam=None, scorer=scorer
    )
    expected = acoustic_log_probs(log_probs[0])
    assert {one.tokens for one in found} == set(expected)
    for one in found:
        words = tokenizer.decode(one.tokens).split()
        parts = expected_parts(expected[one.tokens], words, model, hot)
        assert one.parts is not None
        assert dataclasses.astuple(one.parts) == pytest.approx(dataclasses.astuple(parts))
        total = parts.acoustic + lm_weight * parts.lm + word_bonus * parts.num_words
        total += parts.hotwords - unknown_penalty * parts.num_unknown
        assert one.score == pytest.approx(total)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(("kind", "num_frames"), [("char", 5), ("bpe", 4)])
def test_no_two_of_the_n_best_have_the_same_words(
    kind: str, num_frames: int, tmp_path: Path
) -> None:
    """Spaces doubled or at the edges, other pieces: of every text its likeliest spelling."""
    tokenizer = tokenizer_of(kind)
    log_probs = random_log_probs(num_frames, tokenizer.vocab_size, seed=3, sharpness=1.5)
    best_of: dict[str, float] = {}
    spellings = acoustic_log_probs(log_probs[0])
    for tokens, log_prob in spellings.items():
        text = " ".join(tokenizer.decode(tokens).split())
        best_of[text] = max(log_prob, best_of.get(text, -math.inf))
    assert len(best_of) < len(spellings)
    expected = sorted(best_of.items(), key=lambda item: -item[1])
    for num_best in (1, 2, 12):
        options = SearchOptions(search="beam", beam=EVERYTHING, num_best=num_best)
        search = build_search(options, model_of(tokenizer, tmp_path))
        (found,) = search(log_probs, torch.tensor([num_frames]))
        texts = [" ".join(tokenizer.decode(one.tokens).split()) for one in found]
        assert texts == [text for text, _ in expected[:num_best]]
        scores = [score for _, score in expected[:num_best]]
        assert [one.score for one in found] == pytest.approx(scores)


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_narrow_beam_finds_the_best(model: NgramModel, kind: str) -> None:
    """In sharp sound, as models make it, sixteen prefixes nearly always find the exact answer."""
    tokenizer = tokenizer_of(kind)
    scorer = TextScorer(units_of(tokenizer), model, 0.6, 1.0, 3.0, Hotwords({"ba": 1.0}))
    hits = 0
    for seed in range(10):
        log_probs = random_log_probs(7, tokenizer.vocab_size, seed, sharpness=4.0)
        lens = torch.tensor([7])
        ((best,),) = prefix_beam(log_probs, lens, 400, token_beam=None, scorer=scorer)
        ((narrow,),) = prefix_beam(log_probs, lens, 16, token_margin=8.0, scorer=scorer)
        assert narrow.score <= best.score + 1e-9
        hits += narrow.tokens == best.tokens
    assert hits >= 9


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_no_extension_is_worth_more_than_the_bound(
    model: NgramModel, kind: str, weights: tuple[float, float, float]
) -> None:
    tokenizer = tokenizer_of(kind)
    scorer = TextScorer(units_of(tokenizer), model, *weights)
    rng = np.random.default_rng(0)
    for _ in range(200):
        state = scorer.start()
        for token in rng.integers(1, tokenizer.vocab_size, 8).tolist():
            longer = scorer.extend(state, token)
            assert longer.rank <= state.most + 1e-9
            state = longer


def test_loans_by_hand(model: NgramModel) -> None:
    """Within a word a prefix is lent its most frequent continuation and gives it back."""
    tokenizer = tokenizer_of("char")
    scorer = TextScorer(units_of(tokenizer), model, 0.5, 1.0, 7.0)
    first, second = tokenizer.encode("ab")
    begun = scorer.extend(scorer.start(), first)
    assert begun.rank == pytest.approx(1.0 + 0.5 * max(model.unigram("a"), model.unigram("ab")))
    unknown = scorer.extend(begun, first)
    assert unknown.rank == pytest.approx(1.0 + 0.5 * model.unigram("aa") - 7.0)
    complete = scorer.extend(scorer.extend(begun, second), tokenizer.encode(" ")[0])
    log_prob, _ = model.score(model.start(), "ab")
    assert complete.rank == pytest.approx(1.0 + 0.5 * log_prob)
    assert (complete.word, complete.num_words, complete.num_unknown) == ("", 1, 0)


def test_hotwords_lend_and_take_back() -> None:
    tokenizer = train_tokenizer(["new york newark"], TokenizerConfig(kind="char"))
    hotwords = Hotwords({"new york": 8.0, "york": 1.0})
    scorer = TextScorer(units_of(tokenizer), None, hotwords=hotwords)

    def ranks(text: str) -> list[float]:
        state, found = scorer.start(), []
        for token in tokenizer.encode(text):
            state = scorer.extend(state, token)
            found.append(state.rank)
        return [*found, scorer.finish(state).rank]

    assert ranks("new york") == [1, 2, 3, 4, 5, 6, 7, 8, 9]  # and one more for "york"
    assert ranks("newark") == [1, 2, 3, 0, 0, 0, 0]
    assert ranks("new new york")[-1] == 9
    assert ranks("yorker"[:4]) == [0.25, 0.5, 0.75, 1, 1]


def test_a_hotword_wins_where_sound_is_unsure() -> None:
    tokenizer = tokenizer_of("char")
    a, b = tokenizer.encode("ab")
    probs = torch.full((1, 3, 5), 0.01, dtype=torch.float64)
    probs[0, 0, a], probs[0, 0, b] = 0.6, 0.36
    probs[0, 1, 0] = 0.96
    probs[0, 2, b] = 0.96
    log_probs = (probs / probs.sum(-1, keepdim=True)).log()
    lens = torch.tensor([3])
    plain, boosted = SearchOptions(search="beam"), SearchOptions(search="beam", hotwords=("BB",))
    found = [
        build_search(options, model_of(tokenizer, Path("nowhere")))(log_probs, lens)[0][0]
        for options in (plain, boosted)
    ]
    assert [tokenizer.decode(one.tokens) for one in found] == ["ab", "bb"]
    assert found[1].parts is not None
    assert found[1].parts.hotwords == 4.0


def test_kenlm_scores_through_the_same_interface(model: NgramModel, tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="KenLM's Python module is not installed")
    write_arpa(model, tmp_path / "lm.arpa")
    theirs = KenlmModel(tmp_path / "lm.arpa")
    ours = load_word_model(tmp_path / "lm.arpa")
    tokenizer = tokenizer_of("char")
    log_probs = random_log_probs(6, tokenizer.vocab_size, seed=0, sharpness=2.0)
    found = [
        prefix_beam(
            log_probs,
            torch.tensor([6]),
            EVERYTHING,
            scorer=TextScorer(units_of(tokenizer), lm, 0.5, 1.0, 3.0),
        )[0][0]
        for lm in (ours, theirs)
    ]
    assert found[0].tokens == found[1].tokens
    assert found[0].score == pytest.approx(found[1].score, abs=1e-4)
    with pytest.raises(InputError, match="KenLM cannot read it"):
        load_word_model(tmp_path / "none.klm")


def test_weights_are_given_or_tuned_or_default(model: NgramModel, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("char")
    lm, other = tmp_path / "lm.arpa.gz", tmp_path / "other.arpa"
    write_arpa(model, lm)
    write_arpa(estimate([["a", "b"]], 2)[0], other)
    options = SearchOptions(search="beam", beam=4, lm=lm)

    def settings(changed: SearchOptions) -> tuple[str, float, float, float]:
        found = build_search(changed, model_of(tokenizer, tmp_path)).settings
        return tuple(  # type: ignore[return-value]
            found[name] for name in ("weights", "lm_weight", "word_bonus", "unknown_penalty")
        )

    default = dataclasses.astuple(DEFAULT_WEIGHTS)[:3]
    assert settings(options) == ("default", *default)
    tuned = Tuned("lm.arpa.gz", file_hash(lm), Weights(0.3, 0.25, 8.0), 4, "dev", 0.1)
    write_tuned(tuned, tmp_path)
    assert settings(options) == ("tuned", 0.3, 0.25, 8.0)
    assert settings(dataclasses.replace(options, lm_weight=0.9)) == ("given", 0.9, 0.25, 8.0)
    assert settings(dataclasses.replace(options, lm=other)) == ("default", *default)
    for text in ("first: [", "first: " + "1" * 5000, "lm: 2000-13-45", "first: " + "[" * 3000):
        (tmp_path / "search.yaml").write_text(text)
        with pytest.raises(InputError, match="not valid yaml"):
            settings(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "greedy", "lm": Path("x")}, "need --search beam"),
        ({"search": "greedy", "hotwords": ("a",)}, "need --search beam"),
        ({"search": "beam", "lm_weight": 0.3}, "lm_weight = 0.3: means nothing without --lm"),
        ({"search": "beam", "beam": 4, "num_best": 5}, "num_best = 5"),
        ({"num_best": 2}, "num_best = 2: too many, greedy search finds one"),
        ({"search": "best"}, "choose one of greedy, beam"),
        ({"search": "beam", "hotwords": ("ab", " ")}, "hotword ' ': no letters in it"),
        ({"search": "beam", "hotwords": ("aD",)}, "hotword 'aD': this model never writes 'd'"),
        ({"search": "beam", "hotwords": "ab"}, "hotwords = 'ab': must be phrases"),
        ({"search": "beam", "lm": "no/lm.arpa"}, "no/lm.arpa: cannot read"),
        ({"search": "beam", "hotword_bonus": math.nan}, "hotword_bonus = nan"),
        ({"search": "beam", "lm": Path("no.arpa")}, "no.arpa: cannot read"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        build_search(SearchOptions(**options), model_of(tokenizer_of("char"), tmp_path))


@pytest.mark.parametrize(
    ("values", "message"),
    [((-0.1, 0, 0), "lm_weight = -0.1"), ((0, math.inf, 0), "word_bonus = inf")],
)
def test_wrong_weights_are_refused(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Weights(*values)
