"""Types over the seeds of their trainings, and parts of a test set."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_experiments import seeds_of, write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.tables import format_markdown, format_terminal
from asr.decode.score import score_folder


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
    assert [tuple(one.levels.values()) for one in comparison.types] == list(rates)
    for one in comparison.types:
        assert one.names == [f"{'-'.join(one.levels.values())}-{seed}" for seed in (1, 2, 3)]
        assert one.wer == pytest.approx(np.mean(one.wers))
        assert one.interval is not None
        assert one.interval.low < one.wer < one.interval.high
    scopes = [(one.name, one.baseline, one.within) for one in comparison.type_differences]
    assert scopes == [
        ("sigmoid", "softmax", ["rope", "alibi"]),
        ("sigmoid", "softmax", ["rope"]),
        ("sigmoid", "softmax", ["alibi"]),
        ("relu", "softmax", ["alibi"]),
        ("relu", "sigmoid", ["alibi"]),
        ("alibi", "rope", ["softmax", "sigmoid"]),
        ("sigmoid", "softmax", ["alibi"]),
    ]
    difference = comparison.type_differences[6]
    assert difference.contrast
    overall, relu, alibi = (comparison.type_differences[k] for k in (0, 3, 5))
    mean = {tuple(one.levels.values()): one.wer for one in comparison.types}
    assert difference.difference == pytest.approx(
        mean["sigmoid", "alibi"]
        - mean["softmax", "alibi"]
        - (mean["sigmoid", "rope"] - mean["softmax", "rope"])
    )
    assert difference.p_value == difference.p_holm
    (interaction,) = comparison.interactions  # of two positions: the same question
    assert interaction.levels == ["rope", "alibi"]
    assert (interaction.df1, interaction.df2) == (1, pytest.approx(difference.df))
    assert interaction.p_value == pytest.approx(difference.p_value)
    assert interaction.p_value > 0.05
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


def test_a_training_that_is_like_no_other_is_in_no_type(tmp_path: Path) -> None:
    folders = seeds_of(tmp_path, "softmax", "rope", 0.2) + seeds_of(tmp_path, "relu", "rope", 0.2)
    settings = {"attention": {"weighting": "softmax"}, "train": {"seed": 1, "epochs": 2}}
    for seed, folder in enumerate(folders):
        settings["train"]["seed"] = seed
        settings["attention"]["weighting"] = folder.name
        (folder / "config.yaml").write_text(json.dumps(settings))
    comparison = compare(folders)
    assert [len(one.names) for one in comparison.types] == [3, 3]
    assert comparison.notes == []
    settings["train"]["epochs"] = 3
    (folders[-1] / "config.yaml").write_text(json.dumps(settings))
    comparison = compare(folders)
    assert [one.names for one in comparison.types] == [
        ["softmax-rope-1", "softmax-rope-2", "softmax-rope-3"],
        ["relu-rope-1", "relu-rope-2"],
    ]
    assert [factor.name for factor in comparison.factors] == ["weighting"]
    alone = "in no type, since nothing like it was trained with another seed: "
    assert comparison.notes[0] == f"{alone}relu-rope-3 (train.epochs)"
    write_experiment(folders[0], weighting="softmax", position="rope", encoder="transformer")
    found = compare(folders).notes[0]
    assert found == f"{alone}softmax-rope-1 (encoder.kind); relu-rope-3 (train.epochs)"


def test_settings_that_compute_the_same_are_no_difference(tmp_path: Path) -> None:
    """A count with softmax or without a bias, what an older version did not write."""
    folders = [
        *seeds_of(tmp_path, "softmax", "alibi", 0.2),
        *seeds_of(tmp_path, "sigmoid", "rope", 0.2),
        *seeds_of(tmp_path, "sigmoid", "alibi", 0.2),
    ]

    def write(folder: Path, **attention: object) -> None:
        weighting, position, _ = folder.name.split("-")
        words = {"weighting": weighting, "position": position, **attention}
        (folder / "config.yaml").write_text(json.dumps({"attention": words}))

    for folder in folders[:6]:
        write(folder, count="visible")
    for folder in folders[6:]:
        write(folder, count="effective", shift_exponent=False)
    assert [len(one.names) for one in compare(folders).types] == [3, 3, 3]
    for options in ({"count": "visible"}, {"count": "effective", "shift_exponent": True}):
        write(folders[6], **options)
        comparison = compare(folders)
        assert [len(one.names) for one in comparison.types] == [3, 3, 2]
        (note,) = (one for one in comparison.notes if one.startswith("in no type"))
        assert note.endswith(f"sigmoid-alibi-1 (attention.{list(options)[-1]})")


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
    cuts[0]["custom"] = {"snr_db": math.inf}  # a clean one: no part can be named after it
    manifest.write_text("".join(json.dumps(as_cut(**cut)) + "\n" for cut in cuts))
    assert "noise" not in {part.by for part in compare([exp]).parts}


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
