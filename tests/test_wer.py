"""Error counts against hand-worked cases, enumeration, jiwer and NIST sclite."""

from __future__ import annotations

import math
import random
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.wer import Edit, ErrorCounts, Op, align, count_errors

words = st.lists(st.sampled_from("abcd"), max_size=12)
SCLITE = ["sclite"] if shutil.which("sclite") else ["sctk", "sclite"]


def counts_of(edits: list[Edit]) -> ErrorCounts:
    ops = [edit.op for edit in edits]
    return ErrorCounts(
        reference_words=sum(edit.reference is not None for edit in edits),
        correct=ops.count(Op.CORRECT),
        substitutions=ops.count(Op.SUBSTITUTION),
        deletions=ops.count(Op.DELETION),
        insertions=ops.count(Op.INSERTION),
    )


def least(reference: tuple[str, ...], hypothesis: tuple[str, ...], sub: int, gap: int) -> int:
    """Weighted edit distance by the textbook recursion."""

    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return gap * (i + j)
        pair = distance(i - 1, j - 1) + (sub if reference[i - 1] != hypothesis[j - 1] else 0)
        return min(pair, distance(i - 1, j) + gap, distance(i, j - 1) + gap)

    return distance(len(reference), len(hypothesis))


@pytest.mark.parametrize(
    ("reference", "hypothesis", "shown"),
    [
        ("", "", ""),
        ("a b", "a b", "a=a b=b"),
        ("a b", "", "a- b-"),
        ("", "a b", "+a +b"),
        ("the cat sat", "the bat sat", "the=the cat/bat sat=sat"),
        ("a b c", "a c", "a=a b- c=c"),
        ("a c", "a b c", "a=a +b c=c"),
        # Two errors either way: the alignment that keeps a word right, not two substitutions.
        ("a b", "b c", "a- b=b +c"),
        # Gaps come early, of two gaps the deletion first.
        ("a b", "b a", "a- b=b +a"),
        ("a a", "a", "a- a=a"),
        ("x", "y z", "+y x/z"),
    ],
)
def test_alignments_by_hand(reference: str, hypothesis: str, shown: str) -> None:
    sign = {Op.CORRECT: "=", Op.SUBSTITUTION: "/", Op.DELETION: "-", Op.INSERTION: "+"}
    edits = align(reference.split(), hypothesis.split())
    text = " ".join(f"{e.reference or ''}{sign[e.op]}{e.hypothesis or ''}" for e in edits)
    assert text == shown


def test_counts_by_hand() -> None:
    reference = ["the", "cat", "sat", "on", "the", "mat"]
    counts = count_errors(reference, ["a", "cat", "sat", "the", "old", "mat"])
    assert counts == ErrorCounts(6, 4, 1, 1, 1)
    assert (counts.errors, counts.wer) == (3, 0.5)


def test_wer_without_reference_words() -> None:
    assert math.isnan(ErrorCounts().wer)
    assert count_errors([], ["a"]).wer == math.inf


def test_counts_add_up() -> None:
    one, other = count_errors(["a", "b"], ["a"]), count_errors(["a"], ["b", "c"])
    assert sum([one, other], ErrorCounts()) == ErrorCounts(3, 1, 1, 1, 1)


@given(words, words)
def test_alignment_is_one(reference: list[str], hypothesis: list[str]) -> None:
    edits = align(reference, hypothesis)
    assert [e.reference for e in edits if e.reference is not None] == reference
    assert [e.hypothesis for e in edits if e.hypothesis is not None] == hypothesis
    for edit in edits:
        expected = {
            (False, True): Op.INSERTION,
            (True, False): Op.DELETION,
            (True, True): Op.CORRECT if edit.reference == edit.hypothesis else Op.SUBSTITUTION,
        }[(edit.reference is not None, edit.hypothesis is not None)]
        assert edit.op is expected
    assert counts_of(edits) == count_errors(reference, hypothesis)


@given(words, words)
def test_errors_are_the_minimum_and_substitutions_the_fewest(
    reference: list[str], hypothesis: list[str]
) -> None:
    counts = count_errors(reference, hypothesis)
    pair = tuple(reference), tuple(hypothesis)
    assert counts.errors == least(*pair, sub=1, gap=1)
    # 1001 and 1000: of the alignments with the fewest errors, the one with fewest substitutions.
    assert counts.errors * 1000 + counts.substitutions == least(*pair, sub=1001, gap=1000)


@given(words, words, words)
def test_metric(a: list[str], b: list[str], c: list[str]) -> None:
    ab, ba = count_errors(a, b), count_errors(b, a)
    assert (ab.substitutions, ab.deletions, ab.insertions) == (
        ba.substitutions,
        ba.insertions,
        ba.deletions,
    )
    assert (ab.errors == 0) == (a == b)
    assert count_errors(a, c).errors <= ab.errors + count_errors(b, c).errors


@settings(max_examples=200)
@given(words.filter(bool), words)
def test_total_is_jiwers(reference: list[str], hypothesis: list[str]) -> None:
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    counts = count_errors(reference, hypothesis)
    assert counts.errors == theirs.substitutions + theirs.deletions + theirs.insertions
    assert counts.wer == pytest.approx(theirs.wer)


def test_an_hour_of_speech_in_one_piece() -> None:
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(3000)]
    reference = [rng.choice(vocabulary) for _ in range(10_000)]
    hypothesis = []
    for word in reference:
        draw = rng.random()
        if draw < 0.05:
            continue
        hypothesis.append(rng.choice(vocabulary) if draw < 0.12 else word)
        if draw > 0.97:
            hypothesis.append(rng.choice(vocabulary))
    counts = count_errors(reference, hypothesis)
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    assert counts.errors == theirs.substitutions + theirs.deletions + theirs.insertions
    assert counts_of(align(reference, hypothesis)) == counts


def random_pairs(seed: int, vocabulary: str, count: int) -> list[tuple[list[str], list[str]]]:
    rng = random.Random(seed)

    def sentence() -> list[str]:
        return [rng.choice(vocabulary) for _ in range(rng.randint(1, 10))]

    return [(sentence(), sentence()) for _ in range(count)]


@pytest.mark.skipif(
    not shutil.which(SCLITE[0]), reason="NIST sclite (Debian: sctk) is not installed"
)
@pytest.mark.parametrize("vocabulary", ["abc", "abcdefghijkl"])
def test_alignments_are_sclites(vocabulary: str, tmp_path: Path) -> None:
    pairs = random_pairs(seed=1, vocabulary=vocabulary, count=1000)
    for name, side in (("ref", 0), ("hyp", 1)):
        lines = [f"{' '.join(pair[side])} (s-{k})\n" for k, pair in enumerate(pairs)]
        (tmp_path / f"{name}.trn").write_text("".join(lines))
    command = [*SCLITE, "-s", "-i", "rm", "-o", "prf", "stdout"]
    command += ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    listing = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    blocks = re.findall(
        r"id: \(s-(\d+)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)\n"
        r"[^\n]*\nREF: ([^\n]*)\nHYP: ([^\n]*)\n",
        listing,
    )
    assert len(blocks) == len(pairs)
    num_equal = 0
    for number, correct, subs, dels, ins, reference_line, hypothesis_line in blocks:
        reference, hypothesis = pairs[int(number)]
        counts = count_errors(reference, hypothesis)
        theirs = ErrorCounts(len(reference), int(correct), int(subs), int(dels), int(ins))
        # sclite's total may exceed the minimum, only ever to save three substitutions an error.
        assert theirs.errors >= counts.errors
        saved = counts.substitutions - theirs.substitutions
        assert theirs == counts or saved >= 3 * (theirs.errors - counts.errors) > 0
        if theirs == counts:
            num_equal += 1
            ours = [(e.reference or "*", e.hypothesis or "*") for e in align(reference, hypothesis)]
            columns = zip(reference_line.split(), hypothesis_line.split(), strict=True)
            assert ours == [(a.lower(), b.lower()) for a, b in columns]
    assert num_equal >= 0.99 * len(pairs)
