"""N-gram models against KenLM, against the textbook's formulas and against hand-computed numbers."""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asr.cli import main
from asr.errors import InputError
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.kneser_ney import FALLBACK_DISCOUNTS, estimate
from asr.lm.ngram import NgramModel, perplexity
from asr.lm.text import read_sentences
from asr.text.normalise import get_normaliser

DATA = os.environ.get("SIGMOID_ASR_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="SIGMOID_ASR_DATA is not set")

HAND = r"""
\data\
ngram 1=5
ngram 2=3
ngram 3=1

\1-grams:
-1.0	<unk>
-99	<s>	-0.5
-0.7	</s>
-0.4	a	-0.2
-0.6	b	-0.3

\2-grams:
-0.1	<s> a	-0.05
-0.3	a b	-0.15
-0.2	b a	-0.25

\3-grams:
-0.01	<s> a b

\end\
"""


@pytest.fixture
def hand(tmp_path: Path) -> NgramModel:
    (tmp_path / "hand.arpa").write_text(HAND)
    return read_arpa(tmp_path / "hand.arpa")


def random_text(seed: int, num_sentences: int, num_words: int) -> list[list[str]]:
    """Words by Zipf's law, so that counts of one, two, three and four all occur."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, num_words + 1)
    words = [f"w{number}" for number in range(num_words)]
    lengths = rng.integers(1, 9, num_sentences)
    return [
        [words[k] for k in rng.choice(num_words, length, p=weights / weights.sum())]
        for length in lengths
    ]


def log10_prob(model: NgramModel, words: Sequence[str], word: str) -> float:
    state = model.start()
    for history in words:
        _, state = model.score(state, history)
    return model.score(state, word)[0] / math.log(10)


@pytest.mark.parametrize(
    ("history", "word", "expected"),
    [
        ([], "a", -0.1),  # the bigram <s> a
        (["a"], "b", -0.01),  # the trigram
        (["a"], "a", -0.05 - 0.2 - 0.4),  # back-offs of "<s> a" and of "a"
        ([], "b", -0.5 - 0.6),
        (["a", "b"], "a", -0.15 - 0.2),  # "a b a" is unknown, "b a" is known
        (["a", "b", "a"], "</s>", -0.25 - 0.2 - 0.7),
        (["a", "zzz"], "a", -0.4),  # nothing is known after an unknown word
        (["a"], "zzz", -0.05 - 0.2 - 1.0),
    ],
)
def test_back_off_by_hand(hand: NgramModel, history: list[str], word: str, expected: float) -> None:
    assert log10_prob(hand, history, word) == pytest.approx(expected, abs=1e-6)


def test_perplexity_by_hand(hand: NgramModel) -> None:
    found = perplexity(hand, [["a", "b"], ["zzz"]])
    # P(a) P(b) P(</s>), then P(zzz) P(</s>): "a b" backs off by -0.15, "b" by -0.3
    total = -0.1 - 0.01 + (-0.15 - 0.3 - 0.7) + (-0.5 - 1.0) - 0.7
    assert (found.num_sentences, found.num_words, found.num_unknown) == (2, 3, 1)
    assert found.with_unknown == pytest.approx(10 ** (-total / 5))
    assert found.without_unknown == pytest.approx(10 ** (-(total + 1.5) / 4))


class Textbook:
    """Modified Kneser-Ney as Chen and Goodman write it, one probability at a time."""

    def __init__(self, sentences: list[list[str]], order: int) -> None:
        self.order = order
        padded = [["<s>", *sentence, "</s>"] for sentence in sentences]
        raw: dict[int, Counter[tuple[str, ...]]] = {
            n: Counter(tuple(s[i : i + n]) for s in padded for i in range(len(s) - n + 1))
            for n in range(1, order + 1)
        }
        self.counts: dict[int, dict[tuple[str, ...], int]] = {order: dict(raw[order])}
        for n in range(1, order):
            before: dict[tuple[str, ...], set[str]] = defaultdict(set)
            for gram in raw[n + 1]:
                before[gram[1:]].add(gram[0])
            self.counts[n] = {
                gram: raw[n][gram] if gram[0] == "<s>" else len(before[gram]) for gram in raw[n]
            }
        self.counts[1].pop(("<s>",))
        self.words = {gram[0] for gram in self.counts[1]} | {"<unk>"}
        self.discounts = {n: self._discounts(Counter(self.counts[n].values())) for n in self.counts}

    @staticmethod
    def _discounts(n: Counter[int]) -> tuple[float, ...]:
        if not (n[1] and n[2] and n[3]):
            return FALLBACK_DISCOUNTS
        y = n[1] / (n[1] + 2 * n[2])
        found = (1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3])
        return found if all(0 < d <= k + 1 for k, d in enumerate(found)) else FALLBACK_DISCOUNTS

    def prob(self, history: tuple[str, ...], word: str) -> float:
        history = history[-(self.order - 1) :] if self.order > 1 else ()
        n = len(history) + 1
        below = self.prob(history[1:], word) if history else 1 / len(self.words)
        after = {g: c for g, c in self.counts[n].items() if g[:-1] == history}
        total = sum(after.values())
        if not total:
            return below
        taken = [self.discounts[n][min(count, 3) - 1] for count in after.values()]
        count = after.get((*history, word), 0)
        kept = count - self.discounts[n][min(count, 3) - 1] if count else 0.0
        return kept / total + sum(taken) / total * below


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("seed", "num_sentences"), [(1, 8), (2, 60)])
def test_estimates_are_the_textbooks(seed: int, num_sentences: int, order: int) -> None:
    sentences = random_text(seed, num_sentences, 12)
    model, discounts = estimate(sentences, order)
    book = Textbook(sentences, order)
    assert [d.values for d in discounts] == [
        pytest.approx(book.discounts[n + 1]) for n in range(order)
    ]
    assert all(d.estimated == (d.values != FALLBACK_DISCOUNTS) for d in discounts)
    words = sorted(book.words - {"</s>", "<unk>"})
    histories = [tuple(s[:cut]) for s in sentences[:6] for cut in range(len(s) + 1)]
    histories += [*itertools.product(words[:3], repeat=2), ("never", words[0])]
    for history in histories:
        expected = {word: book.prob(("<s>", *history), word) for word in sorted(book.words)}
        found = {word: 10 ** log10_prob(model, history, word) for word in sorted(book.words)}
        assert found == pytest.approx(expected, rel=2e-6), history
        assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_discounts_are_estimated_from_enough_text() -> None:
    _, discounts = estimate(random_text(0, 1000, 400), 3)
    assert all(discount.estimated for discount in discounts)


def test_a_model_does_not_depend_on_the_order_of_sentences(tmp_path: Path) -> None:
    sentences = random_text(3, 50, 15)
    write_arpa(estimate(sentences)[0], tmp_path / "a.arpa")
    write_arpa(estimate(sentences[::-1])[0], tmp_path / "b.arpa")
    assert (tmp_path / "a.arpa").read_bytes() == (tmp_path / "b.arpa").read_bytes()


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_written_and_read_again(tmp_path: Path, name: str) -> None:
    model, _ = estimate(random_text(4, 40, 10), 4)
    write_arpa(model, tmp_path / name)
    again = read_arpa(tmp_path / name)
    assert again.vocabulary == model.vocabulary
    for level, other in zip(model.levels, again.levels, strict=True):
        assert (level.keys == other.keys).all()
        np.testing.assert_allclose(level.log10_prob, other.log10_prob, rtol=1e-6)
        np.testing.assert_allclose(level.log10_backoff, other.log10_backoff, rtol=1e-6, atol=1e-7)


def kenlm_scores(path: Path, sentence: list[str]) -> list[tuple[float, bool]]:
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed")
    return [(prob, oov) for prob, _, oov in kenlm.Model(str(path)).full_scores(" ".join(sentence))]


@pytest.mark.parametrize("order", [2, 3, 5])
def test_queries_are_kenlms(tmp_path: Path, order: int) -> None:
    write_arpa(estimate(random_text(5, 200, 30), order)[0], tmp_path / "lm.arpa")
    model = read_arpa(tmp_path / "lm.arpa")
    for sentence in random_text(6, 40, 36):  # six words are unknown
        expected = kenlm_scores(tmp_path / "lm.arpa", sentence)
        state, found = model.start(), []
        for word in [*sentence, "</s>"]:
            log_prob, state = model.score(state, word)
            found.append((log_prob / math.log(10), word not in model))
        assert [oov for _, oov in found] == [oov for _, oov in expected]
        assert [p for p, _ in found] == pytest.approx([p for p, _ in expected], abs=1e-5)


def test_a_pruned_model_by_hand(tmp_path: Path) -> None:
    # Pruning by entropy may keep "b b a" and drop "b a": what is missing has no back-off weight.
    text = HAND.replace("-0.2\tb a\t-0.25", "-0.4\tb b\t-0.1").replace("3=1", "3=2")
    text = text.replace("-0.01\t<s> a b", "-0.01\t<s> a b\n-0.02\tb b a")
    (tmp_path / "lm.arpa").write_text(text)
    model = read_arpa(tmp_path / "lm.arpa")
    assert log10_prob(model, ["a", "b"], "a") == pytest.approx(-0.15 - 0.3 - 0.4)
    assert log10_prob(model, ["b", "b"], "a") == pytest.approx(-0.02)
    assert log10_prob(model, ["b", "b", "a"], "b") == pytest.approx(-0.3)


def test_estimation_is_lmplzs(tmp_path: Path) -> None:
    """KenLM's own estimator, where it is installed: every line of the two files."""
    program = shutil.which("lmplz")
    if program is None:
        pytest.skip("KenLM's lmplz is not on the path")
    sentences = random_text(7, 3000, 1000)
    (tmp_path / "text").write_text("".join(" ".join(s) + "\n" for s in sentences))
    command = [program, "-o", "3", "-S", "5%", "--discount_fallback"]
    with (tmp_path / "text").open() as text, (tmp_path / "theirs.arpa").open("w") as out:
        subprocess.run(command, stdin=text, stdout=out, stderr=subprocess.DEVNULL, check=True)
    ours, theirs = estimate(sentences)[0], read_arpa(tmp_path / "theirs.arpa")
    for sentence in random_text(8, 200, 1100):
        for length in range(len(sentence)):
            word, history = sentence[length], sentence[:length]
            expected = log10_prob(theirs, history, word)
            assert log10_prob(ours, history, word) == pytest.approx(expected, abs=2e-3)


@needs_data
def test_perplexity_of_real_text_is_kenlms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path(str(DATA), "librispeech-mini", "train-clean-100-text.txt")
    lines = text.read_text().splitlines(keepends=True)
    (tmp_path / "train.txt").write_text("".join(lines[:4000]))
    (tmp_path / "held.txt").write_text("".join(lines[-300:]))
    out = tmp_path / "lm.arpa"
    assert main(["lm", "train", "--text", f"{tmp_path}/train.txt", "--ids", "--out", str(out)]) == 0
    asked = ["lm", "perplexity", "--lm", str(out), "--text", f"{tmp_path}/held.txt", "--ids"]
    assert main(asked) == 0
    printed = capsys.readouterr().out
    assert "too little text" not in printed
    held = list(
        read_sentences([tmp_path / "held.txt"], get_normaliser("lowercase-apostrophe"), True)
    )
    kenlm = pytest.importorskip("kenlm", reason="KenLM's Python module is not installed")
    reference = kenlm.Model(str(out))
    total = sum(reference.score(" ".join(sentence)) for sentence in held)
    num_scored = sum(len(sentence) + 1 for sentence in held)
    assert f"perplexity {10 ** (-total / num_scored):.2f};" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("\\data\\", ""), "no line"),
        (("ngram 2=3", "ngram 3=3"), "line 4: expected 'ngram 2=COUNT'"),
        (("ngram 2=3", "ngram 2=4"), "line 19: expected 2 words"),
        (("-0.3\ta b", "x\ta b"), "line 16: not a number"),
        (("-0.3\ta b", "0.3\ta b"), "line 16: log10 probability 0.3: must be 0 or less"),
        (("a b\t-0.15", "a q\t-0.15"), "'q' among the 2-grams is no unigram"),
        (("b a\t-0.25", "a b\t-0.25"), "one of the 2-grams is listed twice"),
        (("<s> a b", "b b a"), "the first 2 words of 'b b a' are not listed"),
        (("-0.7\t</s>", "-0.7\tc"), "no unigram </s>"),
        (("\\end\\", ""), "expected \\end\\"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "bad.arpa"
    path.write_text(HAND.replace(*change))
    with pytest.raises(InputError) as caught:
        read_arpa(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_arpa(tmp_path / "none.arpa")
    (tmp_path / "binary.arpa").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="not UTF-8"):
        read_arpa(tmp_path / "binary.arpa")
    (tmp_path / "cut.arpa.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(InputError, match="cannot read"):
        read_arpa(tmp_path / "cut.arpa.gz")


def test_a_file_without_the_unknown_word(tmp_path: Path) -> None:
    text = HAND.replace("ngram 1=5", "ngram 1=4").replace("-1.0\t<unk>\n", "")
    (tmp_path / "lm.arpa").write_text(text)
    model = read_arpa(tmp_path / "lm.arpa")
    assert log10_prob(model, ["a", "b"], "zzz") == pytest.approx(-100 - 0.15 - 0.3)
    assert model.vocabulary == ["a", "b"]


@pytest.mark.parametrize(
    ("sentences", "order", "message"),
    [
        ([], 3, "there is no text"),
        ([[]], 3, "there is no text"),
        ([["a"]], 0, "order = 0: must be from 1 to 5"),
        ([["a"]], 6, "order = 6: must be from 1 to 5"),
        ([["a", "<s>"]], 2, "the word '<s>'"),
    ],
)
def test_what_cannot_be_estimated(sentences: list[list[str]], order: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(sentences, order)
