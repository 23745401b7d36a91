"""Scoring a decoded set: hand-computed counts, jiwer, NIST sclite, and bad input."""

from __future__ import annotations

import json
import random
import re
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import jiwer
import pytest

from asr.decode.decoded import DecodedUtterance, read_hypotheses
from asr.decode.score import format_score, score_folder
from asr.decode.trn import trn_ids, trn_text
from asr.errors import InputError
from asr.files import write_atomically
from asr.wer import ErrorCounts, count_errors

SCLITE = ["sclite"] if shutil.which("sclite") else ["sctk", "sclite"]
needs_sclite = pytest.mark.skipif(
    not shutil.which(SCLITE[0]), reason="NIST sclite (Debian: sctk) is not installed"
)
BY_HAND = [
    # id, speaker, reference, hypothesis
    ("s1-a", "s1", "the cat sat on the mat", "the bat sat the old mat"),  # S 1, D 1, I 1
    ("s1-b", "s1", "a b c", "a b c"),
    ("s2-a", "s2", "hello world", ""),  # D 2
    ("s2-b", "s2", "", "extra"),  # I 1
    ("s2-c", "s2", "", ""),
]


def write_set(
    folder: Path, rows: list[tuple[str, str, str, str]], **decoding: Any
) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": id_,
            "speaker": speaker,
            "duration_s": 1.5,
            "reference": reference,
            "hypothesis": hypothesis,
            "score": -1.25,
        }
        for id_, speaker, reference, hypothesis in rows
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "hypotheses.jsonl").write_text(text, encoding="utf-8")
    content = {
        "set": folder.name,
        "cuts": "cuts.jsonl.gz",
        "search": "greedy",
        "beam": None,
        "normaliser": "lowercase-apostrophe",
        "num_utterances": len(rows),
        "audio_s": 1.5 * len(rows),
        "wall_s": 1.0,
        "rtf": 0.02,
        "device": "cpu",
        "num_threads": 2,
    }
    (folder / "decode.json").write_text(json.dumps({**content, **decoding}))
    return lines


def sclite_counts(folder: Path) -> dict[str, ErrorCounts]:
    """Per utterance id what sclite counts from the two trn files."""
    command = [*SCLITE, "-s", "-e", "utf-8", "-i", "rm", "-o", "prf", "stdout"]
    command += ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    blocks = re.findall(
        r"^id: \((.*)\)\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)$",
        done.stdout.decode(errors="replace"),
        flags=re.MULTILINE,
    )
    return {
        id_: ErrorCounts(int(c) + int(s) + int(d), int(c), int(s), int(d), int(i))
        for id_, c, s, d, i in blocks
    }


def test_totals_and_speakers_by_hand(tmp_path: Path) -> None:
    write_set(tmp_path / "dev", BY_HAND)
    score = score_folder(tmp_path / "dev")
    assert score.total.counts == ErrorCounts(11, 7, 1, 3, 2)
    assert score.total.counts.wer == pytest.approx(6 / 11)
    assert score.total.sentence_error_rate == pytest.approx(3 / 5)
    assert list(score.speakers) == ["s1", "s2"]
    assert score.speakers["s1"].counts == ErrorCounts(9, 7, 1, 1, 1)
    assert score.speakers["s2"].counts == ErrorCounts(2, 0, 0, 2, 1)
    assert score.audio_s == pytest.approx(7.5)


def test_score_json_says_the_same(tmp_path: Path) -> None:
    write_set(tmp_path / "dev", BY_HAND, search="prefix_beam", beam=8)
    score = score_folder(tmp_path / "dev")
    content = json.loads((tmp_path / "dev" / "score.json").read_text())
    assert content["set"] == "dev"
    assert content["normaliser"] == "lowercase-apostrophe"
    assert (content["search"], content["beam"]) == ("prefix_beam", 8)
    assert content["wer"] == score.total.counts.wer
    assert (content["reference_words"], content["errors"]) == (11, 6)
    assert content["sentence_error_rate"] == pytest.approx(0.6)
    assert sum(one["errors"] for one in content["speakers"].values()) == content["errors"]


def test_a_set_without_reference_words(tmp_path: Path) -> None:
    write_set(tmp_path / "dev", [("u", "s", "", "noise")])
    score = score_folder(tmp_path / "dev")
    content = json.loads((tmp_path / "dev" / "score.json").read_text())
    assert content["wer"] is None
    assert content["insertions"] == 1
    assert format_score(score).splitlines()[-1].split()[:4] == ["total", "1", "0", "-"]


def test_total_is_jiwers(tmp_path: Path) -> None:
    rows = [row for row in random_rows(seed=3, count=200) if row[2]]
    write_set(tmp_path / "dev", rows)
    theirs = jiwer.process_words([row[2] for row in rows], [row[3] for row in rows])
    assert score_folder(tmp_path / "dev").total.counts.wer == pytest.approx(theirs.wer)


def test_printed_table(tmp_path: Path) -> None:
    write_set(tmp_path / "test-clean", BY_HAND)
    lines = format_score(score_folder(tmp_path / "test-clean")).splitlines()
    assert lines[0] == "test-clean: 0.00 h; search greedy; normaliser lowercase-apostrophe"
    assert lines[2].split("  ")[0] == "speaker"
    assert lines[4].split() == ["s1", "2", "9", "33.33", "1", "1", "1", "25.93", "50.00"]
    assert lines[-1].split() == ["total", "5", "11", "54.55", "1", "3", "2", "60.53", "60.00"]
    assert len({len(line) for line in lines[2:]}) == 1


def test_listing_has_aligned_columns_worst_first(tmp_path: Path) -> None:
    long = ("s3-a", "s3", " ".join(["word"] * 60), " ".join(["word"] * 59 + ["ward"]))
    write_set(tmp_path / "dev", [*BY_HAND, long])
    score_folder(tmp_path / "dev")
    text = (tmp_path / "dev" / "alignment.txt").read_text()
    head, *blocks = text.split("\n\n")
    assert "normaliser lowercase-apostrophe" in head
    assert "WER 9.86 %" in head
    ids = [re.search(r"id: (\S+)", block) for block in blocks]
    assert [found.group(1) for found in ids if found] == [
        "s1-a",
        "s2-a",
        "s2-b",
        "s3-a",
        "s1-b",
        "s2-c",
    ]
    assert blocks[0].splitlines() == [
        "id: s1-a   speaker: s1   errors: 3 in 6 words (S 1, D 1, I 1)",
        "REF:  the cat sat on the *** mat",
        "HYP:  the bat sat ** the old mat",
        "EVAL:     S       D      I",
    ]
    assert max(len(line) for line in text.splitlines()) <= 100
    folded = "".join(line[6:] + " " for line in blocks[3].splitlines() if line[:4] == "HYP:")
    assert folded.split() == ["word"] * 59 + ["ward"]


def test_scoring_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, random_rows(seed=1, count=50))
    score_folder(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    score_folder(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert set(first) == {
        "hypotheses.jsonl",
        "decode.json",
        "score.json",
        "ref.trn",
        "hyp.trn",
        "alignment.txt",
    }


def random_rows(seed: int, count: int) -> list[tuple[str, str, str, str]]:
    """Sentences with recognition-like errors, some empty on either side."""
    rng = random.Random(seed)
    vocabulary = [f"w{k}" for k in range(40)]
    rows = []
    for k in range(count):
        reference = [rng.choice(vocabulary) for _ in range(rng.choice([0, 1, 3, 8, 20]))]
        hypothesis: list[str] = []
        for word in reference if rng.random() > 0.05 else []:
            draw = rng.random()
            hypothesis += [] if draw < 0.08 else [word if draw < 0.85 else rng.choice(vocabulary)]
            hypothesis += [rng.choice(vocabulary)] if draw > 0.95 else []
        rows.append((f"{k:04d}", f"speaker-{k % 7}", " ".join(reference), " ".join(hypothesis)))
    return rows


def marked_up_rows(seed: int, count: int) -> list[tuple[str, str, str, str]]:
    """Words, ids and speakers out of all that trn files give a meaning to, and some Unicode."""
    rng = random.Random(seed)
    alphabet = string.punctuation + "aAé\u4e2d\U0001f600\u0301"
    rows = []
    for k in range(count):
        words = ["".join(rng.choices(alphabet, k=rng.randint(1, 4))) for _ in range(4)]
        sides = [" ".join(rng.choices(words, k=rng.randint(0, 5))) for _ in range(2)]
        rows.append((f"u{k} ({k})", rng.choice(["a-b", "a_b", "(x"]), sides[0], sides[1]))
    return rows


@needs_sclite
@pytest.mark.parametrize(
    "rows",
    [BY_HAND, random_rows(seed=0, count=500), marked_up_rows(seed=0, count=500)],
    ids=["by-hand", "random", "markup"],
)
def test_sclite_agrees(rows: list[tuple[str, str, str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, rows)
    score = score_folder(folder)
    theirs = sclite_counts(folder)
    ids = trn_ids(read_hypotheses(folder))
    assert set(theirs) == set(ids)
    for id_, (_, _, reference, hypothesis) in zip(ids, rows, strict=True):
        assert theirs[id_] == count_errors(reference.split(), hypothesis.split()), id_
    assert sum(theirs.values(), ErrorCounts()) == score.total.counts


@needs_sclite
def test_sclite_sees_the_same_speakers(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, random_rows(seed=2, count=60))
    score = score_folder(folder)
    command = [*SCLITE, "-s", "-i", "rm", "-o", "rsum", "stdout"]
    command += ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn"]
    table = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"\| +speaker%2D(\d) +\|([\d ]+)\|([\d ]+)\|", table)
    assert len(rows) == len(score.speakers) == 7
    for number, sizes, errors in rows:
        group = score.speakers[f"speaker-{number}"]
        counts = group.counts
        assert [int(value) for value in (sizes + errors).split()] == [
            group.num_utterances,
            counts.reference_words,
            counts.correct,
            counts.substitutions,
            counts.deletions,
            counts.insertions,
            counts.errors,
            group.num_wrong,
        ]


def utterance(id_: str, speaker: str) -> DecodedUtterance:
    return DecodedUtterance(id_, speaker, 1.0, "", "", None)


def test_trn_ids_begin_with_the_speaker_and_stay_distinct() -> None:
    libri = [utterance("1272-128104-0000", "1272"), utterance("174-50561-0003", "174")]
    assert trn_ids(libri) == ["1272-128104-0000", "174-50561-0003"]
    # Prefixing only the one that needs it would make the two equal.
    assert trn_ids([utterance("x-1", "x"), utterance("1", "x")]) == ["x-x-1", "x-1"]
    assert trn_ids([utterance("a b", "s-1")]) == ["s%2D1-a%20b"]


def test_trn_text() -> None:
    text = trn_text(["s-1", "s-2"], ["a {b} ;;  c%", ""])
    assert text == "a %7Bb%7D %3B%3B c%25 (s-1)\n(s-2)\n"


def test_unusual_line_separators_stay_inside_a_text(tmp_path: Path) -> None:
    write_set(tmp_path / "dev", [("u", "s", "a\u2028b", "a\x85b")])
    (only,) = read_hypotheses(tmp_path / "dev")
    assert (only.reference, only.hypothesis) == ("a\u2028b", "a\x85b")
    assert score_folder(tmp_path / "dev").total.counts.errors == 0
    assert (tmp_path / "dev" / "ref.trn").read_text() == "a b (s-u)\n"


GOOD_LINE = {
    "id": "u",
    "speaker": "s",
    "duration_s": 1,
    "reference": "a",
    "hypothesis": "b",
    "score": None,
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no utterances in it"),
        ("\n \n", "no utterances in it"),
        ("{", "line 1: not JSON"),
        ("[]", "line 1: expected an object"),
        (json.dumps({**GOOD_LINE, "reference": None}), "line 1: no 'reference'"),
        (json.dumps({**GOOD_LINE, "hypothesis": 3}), "'hypothesis' is 3, expected a text"),
        (json.dumps({**GOOD_LINE, "duration_s": "1"}), "'duration_s' is '1', expected a number"),
        (json.dumps({**GOOD_LINE, "duration_s": True}), "'duration_s' is True, expected a number"),
        (json.dumps({**GOOD_LINE, "duration_s": -1}), "'duration_s' is -1.0, expected seconds"),
        (json.dumps({**GOOD_LINE, "duration_s": float("nan")}), "'duration_s' is nan"),
        (
            json.dumps({**GOOD_LINE, "duration_s": 1e308}),
            "'duration_s' is 1e+308, expected seconds",
        ),
        (json.dumps({**GOOD_LINE, "duration_s": 10**400}), "'duration_s' is 1000"),
        ('{"duration_s": ' + "1" * 5000 + "}", "line 1: a number too long"),
        ("[" * 100_000, "line 1: a number too long, or lists too deep"),
        (json.dumps({**GOOD_LINE, "speaker": 7}), "'speaker' is 7, expected a text"),
        (json.dumps({**GOOD_LINE, "id": " "}), "'id' is empty"),
        (json.dumps({**GOOD_LINE, "reference": "\ud800"}), "half a character"),
        ("\n".join([json.dumps(GOOD_LINE)] * 2), "line 2: id 'u' is in line 1 too"),
    ],
)
def test_bad_hypotheses(text: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    (folder / "hypotheses.jsonl").write_text(text)
    assert_refused(folder, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "decode.json: not JSON"),
        ('{"set": "dev"}', "decode.json: no 'normaliser'"),
        ('{"set": 1, "normaliser": "none"}', "'set' is 1, expected a text"),
        ("[1]", "decode.json: expected an object"),
        ('{"set": "dev", "normaliser": "none", "rtf": NaN}', "'rtf' is nan, expected a number"),
        ('{"set": "dev", "normaliser": "none", "rtf": "x"}', "'rtf' is 'x', expected a number"),
        ('{"set": "dev", "normaliser": "none", "beam": 1.5}', "'beam' is 1.5, expected a whole"),
        (
            '{"set": "dev", "normaliser": "none", "num_utterances": 6}',
            "5 utterances, but 6 were to be decoded",
        ),
    ],
)
def test_bad_decode_json(text: str, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    (folder / "decode.json").write_text(text)
    assert_refused(folder, message)


def test_utterances_of_no_known_speaker(tmp_path: Path) -> None:
    """Missing, null or blank: scored, and in trn files with an id that sclite takes."""
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    total = score_folder(folder).total
    path = folder / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, speaker in zip(lines, (None, "", " ", None, ""), strict=True):
        line["speaker"] = speaker
    del lines[0]["speaker"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score = score_folder(folder)
    assert score.total == total
    assert score.speakers == {"unknown": total}
    ids = re.findall(r"\((\S+)\)$", (folder / "ref.trn").read_text(), re.MULTILINE)
    assert ids == [f"unknown-{line['id']}" for line in lines]


def test_a_score_that_is_no_number_is_no_score(tmp_path: Path) -> None:
    """A model that diverged hears something too."""
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    line = json.dumps({**GOOD_LINE, "score": float("nan")})
    (folder / "hypotheses.jsonl").write_text(line)
    assert [one.score for one in read_hypotheses(folder)] == [None]


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        score_folder(tmp_path / "nowhere")
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    (folder / "decode.json").unlink()
    assert_refused(folder, "decode.json: cannot read: No such file")
    write_set(folder, BY_HAND)
    (folder / "hypotheses.jsonl").write_bytes(b"\xff\xfe")
    assert_refused(folder, "not UTF-8")
    (folder / "hypotheses.jsonl").unlink()
    assert_refused(folder, "hypotheses.jsonl: cannot read: No such file")


def test_an_older_decode_json_is_enough(tmp_path: Path) -> None:
    folder = tmp_path / "dev"
    write_set(folder, BY_HAND)
    (folder / "decode.json").write_text('{"set": "dev", "normaliser": "none"}')
    text = format_score(score_folder(folder))
    assert text.startswith("dev: 0.00 h; normaliser none")


def assert_refused(folder: Path, message: str) -> None:
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(InputError) as raised:
        score_folder(folder)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert {path.name for path in folder.iterdir()} == before


def test_atomic_writing_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InputError, match=r"a\.txt: cannot write: No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(InputError, match="cannot write"):
        write_atomically(tmp_path / "nowhere" / "a.txt", "new")
