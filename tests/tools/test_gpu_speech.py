"""tools/gpu_speech.py on the CPU, tiny: from audio files to an experiment that `asr compare` reads."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gpu_speech
import numpy as np
import pytest
import soundfile
import torch
from gpu_speech_data import Batches, Speech

from asr.compare.experiment import read_experiment
from asr.model.folder import load_model

TINY = [
    *("encoder.num_layers=2", "encoder.dim=16", "encoder.ff_dim=32", "attention.num_heads=2"),
    *("encoder.subsampling_channels=4", "tokenizer.vocab_size=40"),
]
WORDS = [
    "the",
    "small",
    "grey",
    "fox",
    "ran",
    "over",
    "a",
    "long",
    "wall",
    "and",
    "saw",
    "three",
    "birds",
    "in",
    "the",
    "old",
    "tree",
]


def write_part(folder: Path, count: int) -> None:
    """A part as LibriSpeech's are: noise of 1.5 to 9 s and sentences, from a seed."""
    rng = np.random.default_rng(count)
    chapter = folder / "7" / "1"
    chapter.mkdir(parents=True)
    lines = []
    for number in range(count):
        name = f"7-1-{number:04d}"
        size = int(16000 * rng.uniform(1.5, 9.0))
        soundfile.write(chapter / f"{name}.flac", 0.1 * rng.standard_normal(size), 16000)
        lines.append(f"{name} {' '.join(rng.choice(WORDS, 4)).upper()}")
    (chapter / "7-1.trans.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    speech_pack = pytest.importorskip("speech_pack")
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("packed")
    write_part(folder / "train", 24)
    write_part(folder / "dev", 3)
    speech_pack.pack(folder, [("train", folder / "train"), ("dev", folder / "dev")], 16.0)
    call("prepare", "--packed", str(folder), "--set", *TINY)
    return folder


def call(*words: str) -> None:
    before = sys.argv
    sys.argv = ["gpu_speech.py", *words]
    try:
        gpu_speech.main()
    finally:
        sys.argv = before


def train(packed: Path, out: Path, *more: str) -> None:
    call(
        *("train", "--packed", str(packed), "--out", str(out), "--samples", str(out / "samples")),
        *("--steps", "6", "--short-share", "0.5", "--batch-s", "20", "--short-batch-s", "10"),
        *("--seconds", "300", "--processes", "1", "--character-layer", "1", "--eager"),
        *(*more, "--set", *TINY),
    )


def test_both_models_become_experiments(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(packed, tmp_path)
    assert "0 skipped" in capsys.readouterr().out
    logs = {}
    for weighting in ("softmax", "sigmoid"):
        parts, exp = tmp_path / weighting, tmp_path / f"exp-{weighting}"
        call("join", "--packed", str(packed), str(parts), str(exp))
        run = read_experiment(exp).run
        assert (run.weighting, run.position, run.encoder) == (weighting, "alibi", "conformer")
        assert run.commit
        model = load_model(exp / "model", torch.device("cpu"))
        assert run.num_params == sum(p.numel() for p in model.net.parameters())
        logs[weighting] = json.loads((parts / "log.json").read_text())
        assert logs[weighting]["steps"] == 6
    # the same batches: as much audio, and losses of two models
    hours = {w: [row[2] for row in log["train"]] for w, log in logs.items()}
    losses = {w: [row[3] for row in log["train"]] for w, log in logs.items()}
    assert hours["softmax"] == hours["sigmoid"]
    assert losses["softmax"] != losses["sigmoid"]
    assert all(np.isfinite(losses["sigmoid"]))


def test_batches_hold_each_utterance_once_an_epoch_at_its_own_text(
    packed: Path, tmp_path: Path
) -> None:
    train(packed, tmp_path, "--weightings", "sigmoid")
    args = argparse.Namespace(samples=tmp_path / "samples", packed=packed)
    speech = Speech(args, gpu_speech.load_config("sigmoid", TINY), torch.device("cpu"))
    rows = json.loads((tmp_path / "samples" / "train.json").read_text())
    assert speech.num_utterances == len(rows) == 24
    assert speech.num_speeds == 3
    # speeds come after one another: 1 first; a faster one has fewer frames
    frames = speech.frames.reshape(3, 24)
    np.testing.assert_allclose(frames[1] / frames[0], 1 / 0.9, rtol=0.02)
    np.testing.assert_allclose(frames[2] / frames[0], 1 / 1.1, rtol=0.02)
    for row in (0, 24 + 5, 48 + 23):
        tokens = speech.units.tokens_ru[row, : speech.units.lens_r[row]].tolist()
        assert speech.units.tokenizer.decode(tokens) == rows[row % 24]["text"].lower()
    batches = Batches(speech, 20.0, False, seed=3)
    seen: list[int] = []
    for bucket, found in batches:
        assert len(found) == bucket.size
        assert max(speech.frames[found]) <= bucket.frames
        assert bucket.frames % 64 == 0
        seen += [row % 24 for row in found]
        if len(seen) > 5 * 24:
            break
    # those that did not fill a batch come in the next epoch
    counts = np.bincount(seen, minlength=24)
    assert counts.min() >= 3
    short = Batches(speech, 10.0, True, seed=3)
    assert max(speech.frames[short.use]) <= 700
    assert not any(bucket.masked for bucket in short.buckets)
