"""Pruning against brute force over every context and word of small models."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asr.cli import main
from asr.errors import InputError
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.backoff import Backoff
from asr.lm.kneser_ney import estimate
from asr.lm.ngram import SPECIAL_WORDS, NgramModel
from asr.lm.prune import perplexity_changes, prune

Gram = tuple[str, ...]

# A bigram and a trigram whose last words are missing from the order below, as pruning leaves them;
# no <unk>, unigrams that do not sum to one, a word without a probability, back-off weights of nothing.
FOREIGN = r"""
\data\
ngram 1=6
ngram 2=4
ngram 3=2

\1-grams:
-99	<s>	-0.5
-0.7	</s>
-0.4	a	-0.2
-0.6	b	-0.3
-1.2	c	0.4
-inf	d

\2-grams:
-0.1	<s> a	-0.05
-0.3	a b	-0.15
-0.2	b a	-0.25
-0.4	b c

\3-grams:
-0.2	<s> a b
-0.02	a b c

\end\
"""


def random_text(seed: int, num_sentences: int, num_words: int) -> list[list[str]]:
    """Sentences in which each word prefers a few others, so that contexts matter."""
    rng = np.random.default_rng(seed)
    words = [f"w{number}" for number in range(num_words)]
    after = rng.dirichlet(np.full(num_words, 0.3), num_words)
    sentences = []
    for _ in range(num_sentences):
        row, sentence = 0, []
        for _ in range(rng.integers(1, 9)):
            row = rng.choice(num_words, p=after[row])
            sentence.append(words[row])
        sentences.append(sentence)
    return sentences


class Book:
    """A back-off model one probability at a time: P(w | h) listed, or weight(h) P(w | shorter h)."""

    def __init__(self, model: NgramModel) -> None:
        self.order = model.order
        self.prob: dict[Gram, float] = {}
        spelled: list[Gram] = [()]
        for level in model.levels:
            rows = [divmod(int(key), len(model.words)) for key in level.keys]
            spelled = [(*spelled[prefix], model.words[last]) for prefix, last in rows]
            probs = 10 ** level.log10_prob.astype(float)
            self.prob |= dict(zip(spelled, probs.tolist(), strict=True))
        self.words = [word for word in model.words if word != "<s>"]
        del self.prob[("<s>",)]
        total = sum(self.prob[(word,)] for word in self.words)
        self.prob |= {(word,): self.prob[(word,)] / total for word in self.words}

    def p(self, history: Gram, word: str) -> float:
        history = history[max(0, len(history) - self.order + 1) :]
        if (*history, word) in self.prob:
            return self.prob[(*history, word)]
        return self.weight(history) * self.p(history[1:], word)

    def weight(self, history: Gram) -> float:
        listed = [word for word in self.words if (*history, word) in self.prob]
        others = 1 - sum(self.p(history[1:], word) for word in listed)
        return (1 - sum(self.prob[(*history, word)] for word in listed)) / others

    def states(self) -> list[Gram]:
        """All histories of order - 1 words, and those at the beginning of a sentence."""
        words = [word for word in self.words if word != "</s>"]
        found: list[Gram] = [
            ("<s>", *rest)
            for length in range(self.order - 1)
            for rest in itertools.product(words, repeat=length)
        ]
        return [*found, *itertools.product(words, repeat=self.order - 1)]

    def stationary(self) -> dict[Gram, float]:
        """How often each state occurs in endless text, by solving for the eigenvector."""
        states = self.states()
        number = {state: row for row, state in enumerate(states)}
        chain = np.zeros((len(states), len(states)))
        for state, word in itertools.product(states, self.words):
            after = ("<s>",) if word == "</s>" else (*state, word)[-(self.order - 1) :]
            chain[number[state], number[after]] += self.p(state, word)
        equations = np.vstack([chain.T - np.eye(len(states)), np.ones(len(states))])
        result = np.linalg.lstsq(equations, np.append(np.zeros(len(states)), 1), rcond=None)[0]
        return dict(zip(states, result.tolist(), strict=True))

    def divergence(self, pruned: Book, states: dict[Gram, float]) -> float:
        """D(p || p') over all contexts and words."""
        return sum(
            share * self.p(state, word) * math.log(self.p(state, word) / pruned.p(state, word))
            for state, share in states.items()
            for word in self.words
        )


def grams(model: NgramModel, order: int) -> list[Gram]:
    spelled: list[Gram] = [()]
    for level in model.levels[:order]:
        rows = [divmod(int(key), len(model.words)) for key in level.keys]
        spelled = [(*spelled[prefix], model.words[last]) for prefix, last in rows]
    return spelled


def sums_to_one(model: NgramModel) -> None:
    """After every history of one word more than the model looks at, known or not."""
    words = [word for word in model.words if word != "<s>"]
    histories = [word for word in words if word != "</s>"]
    for length in range(model.order + 1):
        for history in itertools.product(histories[:6], repeat=length):
            state = model.start()
            for word in history:
                _, state = model.score(state, word)
            total = math.fsum(math.exp(model.score(state, word)[0]) for word in words)
            assert total == pytest.approx(1, abs=2e-6), history


def size(model: NgramModel) -> int:
    return sum(len(level.keys) for level in model.levels)


@pytest.mark.parametrize("order", [2, 3])
def test_change_of_perplexity_is_that_of_the_whole_model(order: int) -> None:
    model, _ = estimate(random_text(1, 30, 5), order)
    book = Book(model)
    states = book.stationary()
    backoff = Backoff(model)
    histories = np.array([states.get(gram, 0.0) for gram in grams(model, order - 1)])
    found = np.log1p(perplexity_changes(backoff, order, histories))
    for gram, value in zip(grams(model, order), found, strict=True):
        pruned = Book(model)
        del pruned.prob[gram]
        assert value == pytest.approx(book.divergence(pruned, states), abs=1e-9), gram
    assert found.max() > 1e-3


def test_change_of_perplexity_by_hand(tmp_path: Path) -> None:
    # Words a and b, and the end: "a" is followed by b half of the time, else by 1/3 as unigrams are.
    third, half = math.log10(1 / 3), math.log10(1 / 2)
    (tmp_path / "lm.arpa").write_text(
        f"\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-99\t<s>\n{third}\t</s>\n{third}\ta\t0\n"
        f"{third}\tb\n-99\t<unk>\n\n\\2-grams:\n{half}\ta b\n\n\\end\\\n"
    )
    model = read_arpa(tmp_path / "lm.arpa")
    histories = np.array([0.2 if word == "a" else 0.0 for word in model.words])
    # b: 1/2 -> 1/3; a and the end: 1/4 -> 1/3 each
    expected = 0.2 * (0.5 * math.log(3 / 2) + 2 * 0.25 * math.log(3 / 4))
    (found,) = perplexity_changes(Backoff(model), 2, histories)
    assert found == pytest.approx(math.exp(expected) - 1, rel=1e-5)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_marginals_are_those_of_endless_text(order: int) -> None:
    model, _ = estimate(random_text(2, 40, 4), order)
    book = Book(model)
    states = book.stationary()
    marginals = Backoff(model).marginals()
    for length in range(1, order + 1):
        expected = [
            sum(
                share * book.p(state, gram[-1])
                for state, share in states.items()
                if gram[:-1] == state[len(state) - length + 1 :]
            )
            if gram != ("<s>",)
            else states[gram]
            for gram in grams(model, length)
        ]
        assert marginals[length - 1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_fitted_lower_orders_are_kneser_neys(order: int) -> None:
    """Of all n-grams: the condition that they are fitted to is the one that Kneser-Ney solves."""
    model, _ = estimate(random_text(3, 400, 40), order)
    backoff = Backoff(model)
    marginals = backoff.marginals()
    expected = [grams.prob.copy() for grams in backoff.grams]
    for length in range(1, order):
        backoff.set_frequency(length, marginals)
    backoff.normalise()
    assert np.abs(backoff.grams[0].prob - expected[0]).max() > 0.01
    for _ in range(4):
        backoff.fit_lower(marginals)
    for grams_, prob in zip(backoff.grams, expected, strict=True):
        assert grams_.prob == pytest.approx(prob, abs=1e-5)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("part", [0.1, 0.6])
def test_a_pruned_model_has_the_marginals_of_the_whole(order: int, part: float) -> None:
    model, _ = estimate(random_text(4, 400, 40), order)
    whole = Backoff(model)
    room = len(model.words) + int(part * (size(model) - len(model.words)))
    pruned = Backoff(prune(model, max_ngrams=room).model)
    marginals = whole.marginals()
    assert pruned.marginals()[0] == pytest.approx(marginals[0], abs=5e-4)
    assert np.abs(whole.grams[0].prob - marginals[0]).max() > 0.1  # Kneser-Ney's are not


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9])
def test_contexts_sum_to_one(order: int, part: float, tmp_path: Path) -> None:
    model, _ = estimate(random_text(5, 60, 8), order)
    num_words = len(model.words)
    room = num_words + int(part * (size(model) - num_words))
    write_arpa(prune(model, max_ngrams=room).model, tmp_path / "lm.arpa")
    again = read_arpa(tmp_path / "lm.arpa")  # which refuses a context that is not listed
    assert again.words == model.words
    sums_to_one(again)


@pytest.mark.parametrize("max_ngrams", range(7, 13))
def test_a_model_of_another_program(max_ngrams: int, tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(FOREIGN)
    model = read_arpa(tmp_path / "lm.arpa")
    pruned = prune(model, max_ngrams=max_ngrams).model
    assert size(pruned) <= max_ngrams
    sums_to_one(pruned)


def test_orders_without_n_grams(tmp_path: Path) -> None:
    text = FOREIGN[: FOREIGN.index("\\3-grams:")].replace("ngram 3=2", "ngram 3=0\nngram 4=0")
    (tmp_path / "lm.arpa").write_text(text + "\\3-grams:\n\\4-grams:\n\\end\\\n")
    model = read_arpa(tmp_path / "lm.arpa")
    assert model.order == 4
    assert prune(model, max_ngrams=11).model is model
    pruned = prune(model, max_ngrams=9).model
    assert (pruned.order, size(pruned)) == (2, 9)
    sums_to_one(pruned)


def test_nothing_is_removed_below_the_threshold() -> None:
    model, _ = estimate(random_text(6, 60, 8), 3)
    assert prune(model, 0.0).model is model
    assert prune(model, max_ngrams=size(model)).model is model
    assert prune(model, max_words=len(model.words) - len(SPECIAL_WORDS)).model is model


def test_a_larger_threshold_keeps_fewer_of_the_same_n_grams() -> None:
    model, _ = estimate(random_text(7, 100, 10), 3)
    before, sizes = {gram for n in (1, 2, 3) for gram in grams(model, n)}, []
    for threshold in (0.0, 1e-7, 1e-5, 1e-4, 1e-3, 1e-2, 1.0):
        pruned = prune(model, threshold)
        kept = {gram for n in range(1, pruned.model.order + 1) for gram in grams(pruned.model, n)}
        assert kept <= before
        assert all(gram[:-1] in kept for gram in kept if len(gram) > 1)
        assert pruned.threshold == threshold
        before = kept
        sizes.append(len(kept))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 4
    assert sizes[-1] == len(model.words)


def test_a_number_of_n_grams_is_met() -> None:
    model, _ = estimate(random_text(8, 100, 10), 3)
    for room in range(len(model.words), size(model) + 20, 7):
        pruned = prune(model, max_ngrams=room)
        # a context falls with the last n-gram that begins with it
        assert min(room, size(model)) - model.order < size(pruned.model) <= room
        assert size(prune(model, pruned.threshold).model) == size(pruned.model)


def test_unigrams_alone_are_the_frequencies() -> None:
    sentences = random_text(9, 200, 8)
    model, _ = estimate(sentences, 2)
    pruned = prune(model, max_ngrams=len(model.words)).model
    assert pruned.order == 1
    total = sum(len(sentence) + 1 for sentence in sentences)
    for word in pruned.vocabulary:
        count = sum(sentence.count(word) for sentence in sentences)
        assert math.exp(pruned.unigram(word)) == pytest.approx(count / total, abs=0.01)


def test_the_most_frequent_words_stay() -> None:
    sentences = random_text(10, 200, 12)
    model, _ = estimate(sentences, 3)
    counts = {w: sum(s.count(w) for s in sentences) for w in model.vocabulary}
    pruned = prune(model, max_words=5).model
    assert set(pruned.vocabulary) == set(sorted(counts, key=lambda w: -counts[w])[:5])
    assert pruned.words == [w for w in model.words if w in {*pruned.words}]
    sums_to_one(pruned)
    share = sum(count for word, count in counts.items() if word not in pruned)
    total = sum(counts.values()) + len(sentences)
    assert Backoff(pruned).marginals()[0][0] == pytest.approx(share / total, abs=0.05)
    both = prune(model, max_words=5, max_ngrams=20).model
    assert (both.words, size(both) <= 20) == (pruned.words, True)


def test_the_unknown_word_gets_what_dropped_words_had() -> None:
    model, _ = estimate(random_text(16, 100, 12), 1)
    pruned = prune(model, max_words=5).model
    kept = math.fsum(math.exp(pruned.unigram(word)) for word in [*pruned.vocabulary, "</s>"])
    assert math.exp(pruned.unigram("<unk>")) == pytest.approx(1 - kept, abs=1e-6)
    for word in pruned.vocabulary:
        assert pruned.unigram(word) == pytest.approx(model.unigram(word), abs=1e-6)


def test_pruned_models_are_kenlms(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed")
    model, _ = estimate(random_text(11, 200, 20), 3)
    write_arpa(prune(model, max_ngrams=150, max_words=15).model, tmp_path / "lm.arpa")
    ours, theirs = read_arpa(tmp_path / "lm.arpa"), kenlm.Model(str(tmp_path / "lm.arpa"))
    for sentence in random_text(12, 40, 20):
        state, found = ours.start(), []
        for word in [*sentence, "</s>"]:
            log_prob, state = ours.score(state, word)
            found.append(log_prob / math.log(10))
        expected = [prob for prob, _, _ in theirs.full_scores(" ".join(sentence))]
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": -1e-9}, "threshold = -1e-09: must be a number of 0 or more"),
        ({"threshold": math.nan}, "threshold = nan"),
        ({"max_ngrams": 0}, "max_ngrams = 0: must be 1 or more"),
        ({"max_words": 0}, "max_words = 0: must be 1 or more"),
        ({"max_ngrams": 7}, "at most 7 n-grams: must be at least 8"),
        ({"max_ngrams": 5, "max_words": 3}, "must be at least 6"),
    ],
)
def test_values_out_of_range(values: dict[str, float], message: str) -> None:
    model, _ = estimate(random_text(13, 60, 5), 3)
    with pytest.raises(InputError, match=message):
        prune(model, **values)  # type: ignore[arg-type]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = estimate(random_text(14, 100, 10), 3)
    write_arpa(model, tmp_path / "lm.arpa.gz")
    out = tmp_path / "new" / "small.arpa.gz"
    words = ["lm", "prune", str(tmp_path / "lm.arpa.gz"), "--out", str(out)]
    assert main([*words, "--ngrams", "100", "--words", "9"]) == 0
    printed = capsys.readouterr().out
    small = read_arpa(out)
    assert 95 <= size(small) <= 100
    assert f"1-grams {12:9d} of {13:9d}\n2-grams {len(small.levels[1].keys):9d} of" in printed
    threshold = next(line for line in printed.splitlines() if line.startswith("threshold "))
    assert main([*words, "--threshold", threshold.split()[1], "--words", "9"]) == 0
    assert abs(size(read_arpa(out)) - size(small)) <= 2
    assert main([*words, "--threshold", "0"]) == 0
    assert out.read_bytes() == (tmp_path / "lm.arpa.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lm.arpa", [], "one of --threshold, --ngrams and --words is required"),
        ("lm.arpa", ["--threshold", "-0.1"], "--threshold: -0.1: must be a number of 0 or more"),
        ("lm.arpa", ["--threshold", "nan"], "--threshold: nan: must be a number of 0 or more"),
        ("lm.arpa", ["--threshold", "few"], "--threshold: invalid"),
        ("lm.arpa", ["--ngrams", "0"], "--ngrams: 0: must be 1 or more"),
        ("lm.arpa", ["--ngrams", "7"], "at most 7 n-grams: must be at least 8"),
        ("lm.arpa", ["--ngrams", "9", "--threshold", "1"], "not allowed with argument"),
        ("text.txt", ["--ngrams", "9"], "text.txt, line 1: not an ARPA file"),
        ("none.arpa", ["--ngrams", "9"], "none.arpa: cannot read: No such file"),
    ],
)
def test_errors_of_the_command(
    name: str,
    options: Sequence[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_arpa(estimate(random_text(15, 60, 5), 3)[0], tmp_path / "lm.arpa")
    (tmp_path / "text.txt").write_text("hello there\n")
    out = tmp_path / "out" / "small.arpa"
    words = ["lm", "prune", str(tmp_path / name), "--out", str(out), *options]
    try:
        code = main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.parent.exists()
