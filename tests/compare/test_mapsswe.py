"""MAPSSWE against hand-cut segments and NIST's sc_stats."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asr.compare.stats.mapsswe import errors_by_word, mapsswe, segment_errors


def segments(reference: str, first: str, second: str) -> list[tuple[int, int]]:
    words = reference.split()
    return segment_errors(
        errors_by_word(words, first.split()), errors_by_word(words, second.split())
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("a b c d e f g h", "a b c d e f g h", []),
        ("a x c d e f g h", "a b c d e f g h", [(1, 0)]),
        # two words that both got right part two errors; one does not
        ("a x c d y f g h", "a b c d e f g h", [(1, 0), (1, 0)]),
        ("a x c y e f g h", "a b c d e f g h", [(2, 0)]),
        # right in one system only is not right
        ("a x c d y f g h", "a b z d e f g h", [(2, 1)]),
        # an insertion between them parts them
        ("a x c d y f g h", "a b c q d e f g h", [(2, 1)]),
        # sentence ends bound a segment as well
        ("x b c d e f g", "a b c d e f g h h", [(1, 0), (1, 1)]),
        ("", "q q a b c d e f g h", [(8, 2)]),
    ],
)
def test_segments_by_hand(first: str, second: str, expected: list[tuple[int, int]]) -> None:
    assert segments("a b c d e f g h", first, second) == expected


def test_z_by_hand() -> None:
    found = mapsswe([1, 0, 2, -1])
    assert found is not None
    # mean 0.5, variance (0.25 + 0.25 + 2.25 + 2.25) / 3 = 5/3
    assert (found.num_segments, found.mean) == (4, 0.5)
    assert found.z == pytest.approx(0.5 / (5 / 3 / 4) ** 0.5)
    assert found.p_value == pytest.approx(0.4386, abs=1e-4)


def test_too_little_to_test() -> None:
    assert mapsswe([]) is None
    assert mapsswe([3]) is None
    equal = mapsswe([1, 1, 1])
    assert equal is not None
    assert (equal.z, equal.p_value) == (0.0, 1.0)


def misheard(reference: list[str], words: str, rate: float, rng: random.Random) -> list[str]:
    heard = []
    for word in reference:
        draw = rng.random()
        if draw > 0.3 * rate:
            heard.append(rng.choice(words) if draw < 0.7 * rate else word)
        while rng.random() < 0.3 * rate:
            heard.append(rng.choice(words))
    return heard


@pytest.mark.skipif(shutil.which("sctk") is None, reason="NIST's sctk is not installed")
@pytest.mark.parametrize("words", ["ab", "abcdefgh", "abcdefghijklmnopqrstuvw"])
@pytest.mark.parametrize("rate", [0.05, 0.3, 0.6])
def test_sc_stats_counts_the_same_segments(words: str, rate: float, tmp_path: Path) -> None:
    rng = random.Random(f"{words} {rate}")
    references = [[rng.choice(words) for _ in range(rng.randint(1, 15))] for _ in range(80)]
    heard = [[misheard(one, words, rate, rng) for one in references] for _ in range(2)]
    names = {"ref": references, "first": heard[0], "second": heard[1]}
    for name, texts in names.items():
        lines = [" ".join([*text, f"(s{k % 3}-u{k})"]) for k, text in enumerate(texts)]
        (tmp_path / f"{name}.trn").write_text("\n".join(lines) + "\n")
    scored = subprocess.run(
        "sctk sclite -s -i rm -r ref.trn trn -h first.trn trn one -h second.trn trn other "
        "-o sgml stdout | sctk sc_stats -p -t mapsswe -v -n -",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
    ).stdout
    nist = re.search(r"# segs: (\d+)\).* \(mean: *(\S+)\).* \(Z Stat: *(\S+)\)", scored)
    assert nist is not None, scored
    found = mapsswe(
        [
            a - b
            for reference, first, second in zip(references, *heard, strict=True)
            for a, b in segments(" ".join(reference), " ".join(first), " ".join(second))
        ]
    )
    assert found is not None
    assert found.num_segments == int(nist[1])
    assert found.mean == pytest.approx(float(nist[2]), abs=6e-4)
    assert found.z == pytest.approx(float(nist[3]), abs=6e-4)
