"""Which systems are paired, over which units, and what is said where they are not alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_experiments import cells, write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.stats.statistics import Interval, all_signs, holm, student, studentised_bootstrap
from asr.compare.tables import format_terminal
from asr.decode.score import score_folder
from asr.wer import count_errors


def per_speaker(folder: Path) -> np.ndarray:
    """(errors, words) of each speaker of a decoded test set, recounted."""
    lines = (folder / "decode" / "test" / "hypotheses.jsonl").read_text().splitlines()
    totals: dict[str, list[int]] = {}
    for line in map(json.loads, lines):
        counts = count_errors(line["reference"].split(), line["hypothesis"].split())
        one = totals.setdefault(line["speaker"], [0, 0])
        one[0] += counts.errors
        one[1] += counts.reference_words
    return np.array([totals[speaker] for speaker in sorted(totals)], dtype=float)


def test_units_are_speakers_and_paired(pair: list[Path]) -> None:
    """The same intervals and p-value from a plain loop over speakers."""
    base, new = (per_speaker(folder) for folder in pair)
    rng = np.random.default_rng(99)
    comparison = compare(pair)
    expected = studentised_bootstrap(base[:, :1], base[:, 1:], 4000, 99, 0.95)
    interval = comparison.rows[0].sets["test"].interval
    assert interval is not None
    assert [interval.low, interval.high] == pytest.approx([end[0] for end in expected], rel=0.05)
    (difference,) = comparison.differences
    assert (difference.name, difference.baseline) == ("new", "base")
    assert (difference.set_name, difference.unit) == ("test", "speaker")
    assert difference.method == "random signs"
    observed = new[:, 0] - base[:, 0]
    signs = rng.choice([-1, 1], size=(20_000, 12))
    larger = np.abs(signs @ observed) >= abs(observed.sum())
    assert difference.p_value == pytest.approx(larger.mean(), abs=0.01)
    drawn = rng.integers(12, size=(4000, 12))
    better = (new[drawn, 0].sum(axis=1) < base[drawn, 0].sum(axis=1)).mean()
    assert difference.better_share == pytest.approx(better, abs=0.01)
    wer = [row.sets["test"].wer for row in comparison.rows]
    assert wer[0] is not None
    assert wer[1] is not None
    assert difference.difference == pytest.approx(wer[1] - wer[0])
    assert difference.interval is not None
    assert difference.interval.low < difference.difference < difference.interval.high


def test_equal_systems_do_not_differ(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_decoded(folder, "test", 0.2, seed=3)
    (one,) = compare(folders).differences
    assert (one.difference, one.p_value, one.better_share) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("num_speakers", [2, 12])
def test_figures_depend_on_the_seed_alone(num_speakers: int, tmp_path: Path) -> None:
    pair = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for seed, folder in enumerate(pair):
        write_decoded(folder, "test", 0.2, num_speakers=num_speakers, seed=seed)
    assert compare(pair, seed=5) == compare(pair, seed=5)
    assert compare(pair, seed=5).rows[0].sets != compare(pair, seed=6).rows[0].sets
    # Nor on the order of the systems or of the utterances in a file.
    before = compare(pair)
    path = pair[0] / "decode" / "test" / "hypotheses.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    forward, backward = compare(pair), compare(pair[::-1])
    assert forward == before
    assert [row.sets for row in forward.rows] == [row.sets for row in backward.rows[::-1]]
    assert forward.differences[0].difference == -backward.differences[0].difference
    assert forward.differences[0].p_value == backward.differences[0].p_value


@pytest.mark.parametrize("num_speakers", [4, 7])
def test_few_speakers_are_said_to_be_few(num_speakers: int, tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for rate, folder in zip((0.05, 0.5), folders, strict=True):
        write_decoded(folder, "test", rate, num_speakers=num_speakers, seed=num_speakers)
    comparison = compare(folders)
    result = comparison.rows[0].sets["test"]
    assert (result.unit, result.method) == ("speaker", "t")
    one, other = (per_speaker(folder) for folder in folders)
    values = other[:, :1] - one[:, :1], one[:, 1:], 0.95
    by_t = num_speakers < 6
    expected = student(*values) if by_t else all_signs(*values)
    difference = comparison.differences[0]
    assert difference.method == ("t" if by_t else "all signs")
    assert difference.p_value == 2 ** (1 - num_speakers), "every speaker favours the first"
    assert difference.interval == Interval(expected.low_k[0], expected.high_k[0])
    assert (compare(folders, level=0.99).differences[0].method == "t") == (num_speakers < 8)
    text = format_terminal(comparison)
    assert "Student's t over speakers of test" in text
    assert f"{num_speakers} speakers are too few to resample, so intervals are wide" in text
    told = "even if all 4 speakers favour one system, chance does as much with p = 0.125"
    assert (told in text) == by_t


def test_of_no_known_speakers_utterances_are_the_units(pair: list[Path]) -> None:
    for folder in pair:
        path = folder / "decode" / "test" / "hypotheses.jsonl"
        path.write_text(re.sub(r'"speaker": "s\d+"', '"speaker": ""', path.read_text()))
    comparison = compare(pair)
    (difference,) = comparison.differences
    assert difference.unit == "utterance"
    assert difference.p_value is not None
    assert comparison.notes == [
        "test: who speaks is not known: intervals and p-values are over utterances, and say nothing of "
        "another speaker"
    ]
    assert format_terminal(comparison).startswith("test: 60 utterances, no known speakers, ")


def test_two_speakers_say_nothing_of_a_third(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    write_decoded(exp, "test", 0.2, num_speakers=2)
    comparison = compare([exp])
    assert comparison.rows[0].sets["test"].unit == "utterance"
    assert "2 speakers are too few to say anything of another speaker" in comparison.notes[0]


def test_p_values_are_corrected_over_the_table(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in "abcd"]
    for seed, (folder, rate) in enumerate(zip(folders, (0.2, 0.19, 0.15, 0.05), strict=True)):
        write_decoded(folder, "test", rate, seed=seed)
    found = compare(folders).differences
    assert [one.p_holm for one in found] == holm([one.p_value or 0.0 for one in found])
    assert found[2].p_holm == pytest.approx(3 * min(one.p_value or 0.0 for one in found))
    assert all(one.mapsswe is not None for one in found)


def test_one_utterance_has_no_interval(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_decoded(folder, "test", 0.2, references=[["a", "b"]])
    comparison = compare(folders)
    assert comparison.rows[0].sets["test"].interval is None
    assert comparison.differences[0].interval is None
    assert comparison.differences[0].p_value is None
    assert "nan" not in format_terminal(comparison)


def test_no_reference_words(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    write_decoded(exp, "test", 0.2, references=[[], []])
    comparison = compare([exp])
    assert (comparison.rows[0].sets["test"].wer, comparison.rows[0].sets["test"].interval) == (
        None,
        None,
    )
    assert cells(format_terminal(comparison), "a")[5:7] == ["-", "0/0/0"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("text", "1 references differ"),
        ("missing", "1 utterances are in only one of them"),
        ("speaker", "1 speakers differ"),
    ],
)
def test_different_references_are_not_paired(change: str, reason: str, pair: list[Path]) -> None:
    folder = pair[1] / "decode" / "test"
    lines = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text().splitlines()]
    if change == "text":
        lines[0]["reference"] += " more"
    elif change == "speaker":
        lines[0]["speaker"] = "other"
    else:
        del lines[0]
    (folder / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    decoding = json.loads((folder / "decode.json").read_text())
    (folder / "decode.json").write_text(json.dumps({**decoding, "num_utterances": len(lines)}))
    score_folder(folder)
    comparison = compare(pair)
    assert comparison.differences == []
    assert comparison.rows[1].sets["test"].interval is not None
    assert comparison.notes == [
        f"test: new and base were not scored on the same utterances ({reason}), "
        f"so there is no paired difference"
    ]


def test_spacing_of_references_is_no_difference(pair: list[Path]) -> None:
    path = pair[1] / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["reference"] = "  " + lines[0]["reference"].replace(" ", "  ")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(compare(pair).differences) == 1


def test_warnings_where_rows_are_not_alike(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    write_decoded(folders[0], "test", 0.1)
    write_decoded(
        folders[1], "test", 0.1, normaliser="none", search="beam", beam=8, device="cuda:0"
    )
    notes = compare(folders).notes
    assert notes[0].startswith(
        "WARNING: test: normalisers differ (a: lowercase-apostrophe, b: none)"
    )
    assert notes[1] == "test: searches differ (a: greedy, b: beam 8)"
    assert notes[2].startswith("test: real-time factors are of different devices")
    text = format_terminal(compare(folders))
    assert "normaliser lowercase-apostrophe / none; search beam 8 / greedy" in text


def engines(tmp_path: Path, *recorded: tuple[str | None, str | None]) -> list[str]:
    """Notes on engines of systems, each with what its training and its decoding say."""
    folders = []
    for name, (trained, decoded) in zip("abc", recorded, strict=False):
        folders.append(write_experiment(tmp_path / name, attention_backend=trained))
        said = {} if decoded is None else {"attention_backend": decoded}
        write_decoded(folders[-1], "test", 0.1, **said)
    return [note for note in compare(folders).notes if "unlike attention engines" in note]


FUSED, LOOP = "triton (triton)", "blockwise (torch)"


def test_speeds_of_unlike_engines_are_marked(tmp_path: Path) -> None:
    trained, decoded = engines(tmp_path, (FUSED, LOOP), (LOOP, FUSED), (None, None))
    assert trained.startswith("WARNING: train: these speeds come from unlike attention engines")
    assert f"(a: {FUSED}, b: {LOOP}, c: not recorded)" in trained
    assert decoded.startswith("WARNING: RTF of test: these speeds")
    assert f"(a: {LOOP}, b: {FUSED}, c: not recorded)" in decoded


def test_speeds_of_one_engine_and_of_older_runs_are_not_marked(tmp_path: Path) -> None:
    assert engines(tmp_path, (FUSED, FUSED), (FUSED, FUSED), (None, None)) == []


def test_a_training_that_went_on_by_another_engine_is_marked(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name, attention_backend=FUSED) for name in "ab"]
    run = json.loads((folders[1] / "run.json").read_text())
    run["resumed"] = [{"after_step": 5, "attention_backend": LOOP}]
    (folders[1] / "run.json").write_text(json.dumps(run))
    for folder in folders:
        write_decoded(folder, "test", 0.1)
    assert any(f"(a: {FUSED}, b: {FUSED}, {LOOP})" in note for note in compare(folders).notes)
