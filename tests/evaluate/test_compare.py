"""Comparing experiments: every printed figure recomputed, every refusal."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asr.errors import InputError
from asr.evaluate.compare import compare, format_terminal, write_comparison
from asr.evaluate.score import score_folder
from asr.evaluate.statistics import holm, student, studentised_bootstrap
from asr.evaluate.tables import format_markdown
from asr.wer import count_errors

RUN = {
    "weighting": "softmax",
    "position": "alibi",
    "encoder": "conformer",
    "num_params": 18_312_345,
    "attention_backend": "sdpa",
    "normaliser": "lowercase-apostrophe",
    "commit": "0123456789",
    "dirty": False,
    "seed": 1,
    "command": "asr train --config conf/x.yaml",
    "train_audio_s_per_s": 123.4567,
    "train_wall_s": 600.0,
    "versions": {"torch": "2.11.0"},
    "epochs": 30,
}


def sentences(count: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [[rng.choice("abcdefgh") for _ in range(rng.randint(3, 15))] for _ in range(count)]


def misheard(reference: list[str], rate: float, rng: random.Random) -> list[str]:
    heard: list[str] = []
    for word in reference:
        draw = rng.random() / rate
        heard += [] if draw < 0.3 else [rng.choice("abcdefgh") if draw < 0.8 else word]
        heard += ["x"] if 0.8 < draw < 1 else []
    return heard


def write_experiment(exp: Path, **run: Any) -> Path:
    exp.mkdir(parents=True, exist_ok=True)
    content = {"name": exp.name, **RUN, **run}
    known = {key: value for key, value in content.items() if value is not None}
    (exp / "run.json").write_text(json.dumps(known))
    return exp


def write_decoded(
    exp: Path,
    set_name: str,
    rate: float,
    *,
    references: list[list[str]] | None = None,
    num_speakers: int = 12,
    seed: int = 0,
    **decoding: Any,
) -> list[tuple[str, list[str], list[str]]]:
    """Decode and score a set that never was; returns (speaker, reference, hypothesis)."""
    folder = exp / "decode" / set_name
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    rows = [
        (f"s{k % num_speakers}", reference, misheard(reference, rate, rng))
        for k, reference in enumerate(sentences(60) if references is None else references)
    ]
    lines = [
        {
            "id": f"u{k}",
            "speaker": speaker,
            "duration_s": 2.0,
            "reference": " ".join(reference),
            "hypothesis": " ".join(hypothesis),
            "score": -1.0,
        }
        for k, (speaker, reference, hypothesis) in enumerate(rows)
    ]
    (folder / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "set": set_name,
        "search": "greedy",
        "beam": None,
        "normaliser": "lowercase-apostrophe",
        "num_utterances": len(lines),
        "rtf": 0.0213,
        "device": "cpu",
    }
    (folder / "decode.json").write_text(json.dumps({**content, **decoding}))
    score_folder(folder)
    return rows


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two systems on one set of twelve speakers."""
    folders = []
    for seed, (name, weighting, rate) in enumerate(
        [("base", "softmax", 0.2), ("new", "sigmoid", 0.1)]
    ):
        exp = write_experiment(tmp_path / name, weighting=weighting, dirty=name == "new", seed=seed)
        write_decoded(exp, "test", rate, seed=seed)
        folders.append(exp)
    return folders


def cells(text: str, name: str) -> list[str]:
    """Cells of the first line of a terminal table that begins with a name."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return re.split(r"\s{2,}", line)


def test_rows_of_the_table(pair: list[Path]) -> None:
    comparison = compare(pair)
    text = format_terminal(comparison)
    for folder, row in zip(pair, comparison.rows, strict=True):
        score = json.loads((folder / "decode" / "test" / "score.json").read_text())
        result = row.sets["test"]
        assert result.wer == score["wer"]
        assert result.interval is not None
        shown = cells(text, row.name)
        assert shown[:5] == [row.name, row.run.weighting, "alibi", "conformer", "18.3M"]
        assert shown[5] == (
            f"{100 * score['wer']:.2f} "
            f"[{100 * result.interval.low:.2f}, {100 * result.interval.high:.2f}]"
        )
        assert shown[6] == f"{score['substitutions']}/{score['deletions']}/{score['insertions']}"
        assert shown[7:9] == ["0.0213", "123.5"]
    assert cells(text, "base")[9:] == ["0123456", "0"]
    assert cells(text, "new")[9:] == ["0123456+", "1"]
    assert "normaliser lowercase-apostrophe; search greedy" in text
    assert "speakers of test" in text
    assert comparison.notes == []
    assert max(len(line) for line in text.splitlines()) <= 120


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


def test_difference_is_printed(pair: list[Path]) -> None:
    comparison = compare(pair)
    (one,) = comparison.differences
    assert one.interval is not None
    assert one.p_value is not None
    table = format_terminal(comparison).split("WER minus that of base")[1]
    shown = cells(table, "new")
    assert shown[1:3] == ["test", f"{100 * one.difference:+.2f}"]
    assert shown[3] == f"[{100 * one.interval.low:.2f}, {100 * one.interval.high:.2f}]"
    assert shown[4] == ("<0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}")


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


def test_few_speakers_are_said_to_be_few(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        write_decoded(folder, "test", 0.2, num_speakers=4, seed=seed)
    comparison = compare(folders)
    result = comparison.rows[0].sets["test"]
    assert (result.unit, result.method) == ("speaker", "t")
    one, other = (per_speaker(folder) for folder in folders)
    expected = student(other[:, :1] - one[:, :1], one[:, 1:], 0.95)
    assert comparison.differences[0].method == "t"
    assert comparison.differences[0].p_value == expected.p_k[0]
    text = format_terminal(comparison)
    assert "Student's t over speakers of test" in text
    assert "4 speakers are too few to resample" in text


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


def seeds_of(folder: Path, weighting: str, position: str, rate: float) -> list[Path]:
    """Three trainings of a type."""
    folders = []
    for seed in (1, 2, 3):
        name = f"{weighting}-{position}-{seed}"
        exp = write_experiment(folder / name, weighting=weighting, position=position, seed=seed)
        write_decoded(exp, "test", rate, seed=hash_of(name))
        folders.append(exp)
    return folders


def hash_of(name: str) -> int:
    return sum(ord(char) * (k + 1) for k, char in enumerate(name))


def test_types_over_seeds(tmp_path: Path) -> None:
    rates = {
        ("softmax", "rope"): 0.3,
        ("sigmoid", "rope"): 0.1,
        ("softmax", "alibi"): 0.3,
        ("sigmoid", "alibi"): 0.1,
        ("relu", "alibi"): 0.3,
    }
    folders = [e for words, rate in rates.items() for e in seeds_of(tmp_path, *words, rate)]
    comparison = compare(folders)
    assert [(one.weighting, one.position) for one in comparison.types] == list(rates)
    for one in comparison.types:
        assert one.names == [f"{one.weighting}-{one.position}-{seed}" for seed in (1, 2, 3)]
        assert one.wer == pytest.approx(np.mean(one.wers))
        assert one.interval is not None
        assert one.interval.low < one.wer < one.interval.high
    scopes = [(one.name, one.baseline, one.within) for one in comparison.type_differences]
    assert scopes == [
        ("sigmoid", "softmax", ["rope", "alibi"]),
        ("sigmoid", "softmax", ["rope"]),
        ("sigmoid", "softmax", ["alibi"]),
        ("relu", "softmax", ["alibi"]),
        ("alibi", "rope", ["softmax", "sigmoid"]),
    ]
    overall, relu, alibi = (comparison.type_differences[k] for k in (0, 3, 4))
    mean = {(one.weighting, one.position): one.wer for one in comparison.types}
    sigmoid = (mean["sigmoid", "rope"] + mean["sigmoid", "alibi"]) / 2
    softmax = (mean["softmax", "rope"] + mean["softmax", "alibi"]) / 2
    assert overall.difference == pytest.approx(sigmoid - softmax)
    assert overall.p_value is not None
    assert overall.p_holm is not None
    assert overall.p_value < overall.p_holm < 0.001
    assert relu.p_value is not None
    assert relu.p_value > 0.05
    assert alibi.p_value is not None
    assert alibi.p_value > 0.05
    text = format_terminal(comparison)
    assert "mean of 2 positions" in text
    assert "sigmoid - softmax" in text


def test_the_same_training_twice_is_no_second_seed(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for seed, folder in enumerate(folders):
        write_decoded(folder, "test", 0.2, seed=seed)
    comparison = compare(folders)
    assert comparison.types == []
    assert "b has the type and the seed of a: not counted" in comparison.notes[0]


def test_types_of_unequal_budgets_are_not_compared(tmp_path: Path) -> None:
    folders = seeds_of(tmp_path, "softmax", "rope", 0.2) + seeds_of(tmp_path, "relu", "rope", 0.2)
    settings = {"attention": {"weighting": "softmax"}, "train": {"seed": 1, "epochs": 2}}
    for seed, folder in enumerate(folders):
        settings["train"]["seed"] = seed
        settings["attention"]["weighting"] = folder.name
        (folder / "config.yaml").write_text(json.dumps(settings))
    assert len(compare(folders).types) == 2
    settings["train"]["epochs"] = 3
    (folders[-1] / "config.yaml").write_text(json.dumps(settings))
    comparison = compare(folders)
    assert comparison.types == []
    assert comparison.notes == [
        "test: trainings differ in more than words and seed (train.epochs), "
        "so no attention types are compared"
    ]
    write_experiment(folders[0], weighting="softmax", position="rope", encoder="transformer")
    assert "(encoder, train.epochs)" in compare(folders).notes[0]


def test_parts_by_length_speaker_and_noise(tmp_path: Path) -> None:
    """Utterances of 1 to 60 s, the longer ones noisier; every word of the last part is wrong."""
    exp = write_experiment(tmp_path / "a")
    write_decoded(exp, "test", 0.2, references=[["a", "b"]] * 60)
    folder = exp / "decode" / "test"
    lines = [json.loads(line) for line in (folder / "hypotheses.jsonl").read_text().splitlines()]
    cuts = []
    for k, line in enumerate(lines):
        line["duration_s"] = k + 1.0
        line["hypothesis"] = "x y" if k >= 45 else "a b"
        cuts.append({"id": line["id"], "custom": {"snr_db": 60.0 - k}})
    (folder / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = tmp_path / "test.cuts.jsonl"
    manifest.write_text("".join(json.dumps(as_cut(**cut)) + "\n" for cut in cuts))
    decoding = json.loads((folder / "decode.json").read_text())
    (folder / "decode.json").write_text(json.dumps({**decoding, "cuts": str(manifest)}))
    score_folder(folder)
    parts = compare([exp]).parts
    by_length = [part for part in parts if part.by == "length"]
    assert [part.num_utterances for part in by_length] == [14, 15, 15, 16]
    assert [part.wers["a"] for part in by_length[:3]] == [0.0, 0.0, 0.0]
    assert by_length[3].wers["a"] == pytest.approx(15 / 16)
    assert (by_length[0].low, by_length[-1].high) == (1.0, 60.0)
    noisiest = next(part for part in parts if part.by == "noise")
    assert noisiest.label.endswith("dB")
    assert noisiest.wers["a"] == 1.0
    assert sum(part.by == "speaker" for part in parts) == 12
    assert "WER % by length" in format_markdown(compare([exp]))


def as_cut(id: str, custom: dict[str, float]) -> dict[str, Any]:
    recording = {
        "id": id,
        "sources": [{"type": "file", "channels": [0], "source": "nowhere.flac"}],
        "sampling_rate": 16000,
        "num_samples": 16000,
        "duration": 1.0,
    }
    supervision = {"id": id, "recording_id": id, "start": 0.0, "duration": 1.0, "channel": 0}
    return {
        "type": "MonoCut",
        "id": id,
        "start": 0.0,
        "duration": 1.0,
        "channel": 0,
        "recording": recording,
        "supervisions": [{**supervision, "custom": custom}],
    }


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


def test_several_sets(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_decoded(folder, "test-clean", 0.1)
    write_decoded(folders[0], "test-other", 0.3)
    comparison = compare(folders)
    assert comparison.set_names == ["test-clean", "test-other"]
    assert [one.set_name for one in comparison.differences] == ["test-clean"]
    lines = [line.split() for line in format_terminal(comparison).splitlines()]
    table = [line for line in lines if "test-clean" in line or "test-other" in line]
    assert [line[0] for line in table[:3]] == ["a", "test-other", "b"]
    markdown = format_markdown(comparison)
    assert markdown.count("| a | softmax |") == 2


def test_nothing_decoded_is_a_row_of_dashes(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a")
    (exp / "decode" / "half-done").mkdir(parents=True)
    comparison = compare([exp])
    text = format_terminal(comparison)
    assert cells(text, "a")[5:8] == ["-", "-", "-"]
    assert "is not scored (asr score" in comparison.notes[0]
    assert "no scored set" in comparison.notes[1]
    assert text.startswith("Nothing decoded yet.")


def test_an_older_run_json_is_shown_as_dashes(tmp_path: Path) -> None:
    exp = tmp_path / "old"
    exp.mkdir()
    (exp / "run.json").write_text("{}")
    write_decoded(exp, "test", 0.2, search=None, rtf=None)
    shown = cells(format_terminal(compare([exp])), "old")
    assert shown[1:5] == ["-"] * 4
    assert shown[7:] == ["-"] * 4


def test_runs_of_one_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    folders = [write_experiment(tmp_path / name, name="same") for name in ("a", "b")]
    assert [row.name for row in compare(folders).rows] == [str(folder) for folder in folders]


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


def test_written_files_say_what_is_printed(pair: list[Path], tmp_path: Path) -> None:
    comparison = compare(pair)
    out = tmp_path / "new" / "folder"
    write_comparison(comparison, out)
    assert sorted(path.name for path in out.iterdir()) == ["compare.json", "compare.md"]
    content = json.loads((out / "compare.json").read_text())
    assert (content["num_resamples"], content["seed"], content["level"]) == (10_000, 1, 0.95)
    for row, row_content in zip(comparison.rows, content["rows"], strict=True):
        result, result_content = row.sets["test"], row_content["sets"]["test"]
        assert row_content["run"]["weighting"] == row.run.weighting
        assert result_content["wer"] == result.wer
        assert result_content["counts"]["errors"] == result.counts.errors
        assert result.interval is not None
        assert result_content["interval"]["low"] == result.interval.low
    assert content["differences"][0]["p_value"] == comparison.differences[0].p_value

    markdown = (out / "compare.md").read_text()
    assert "asr train --config conf/x.yaml" in markdown
    tables = re.findall(r"((?:^\|.*\n)+)", markdown, flags=re.MULTILINE)
    assert len(tables) == 2
    shown = [re.split(r" ?\| ?", line)[1:-1] for line in tables[0].splitlines()]
    assert len({len(line) for line in shown}) == 1
    assert shown[0][0] == "system"
    assert set("".join(shown[1])) == {"-", ":"}
    assert shown[2] == cells(format_terminal(comparison), "base")


def test_a_bar_in_a_name_stays_in_its_cell(tmp_path: Path) -> None:
    exp = write_experiment(tmp_path / "a", name="x|y")
    assert "| x\\|y |" in format_markdown(compare([exp]))


def test_refusals(pair: list[Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for folders, message in [
        ([], "give at least one"),
        ([tmp_path / "nowhere"], "nowhere: no such folder"),
        ([empty], "empty: no run.json in it"),
        ([pair[0], pair[0]], "given 2 times"),
    ]:
        assert_refused(folders, message)
    (empty / "run.json").write_text("[1]")
    assert_refused([empty], "expected an object")
    (empty / "run.json").write_text('{"num_params": "many"}')
    assert_refused([empty], "'num_params' is 'many', expected a whole number")
    with pytest.raises(InputError, match="num_resamples = 0: must be at least 1"):
        compare(pair, num_resamples=0)
    with pytest.raises(InputError, match=r"level = 1\.0: must be between 0 and 1"):
        compare(pair, level=1.0)


def test_scores_of_other_hypotheses_are_refused(pair: list[Path]) -> None:
    path = pair[1] / "decode" / "test" / "hypotheses.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["hypothesis"] += " more words than were scored"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_refused(pair, "not of the hypotheses beside it; run `asr score")
    path.write_text("")
    assert_refused(pair, "no utterances in it")


def assert_refused(folders: list[Path], message: str) -> None:
    with pytest.raises(InputError) as raised:
        compare(folders)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unwritable_place(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make this folder"):
        write_comparison(compare(pair), tmp_path / "file" / "out")
