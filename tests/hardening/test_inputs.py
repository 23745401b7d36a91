"""Input that is wrong in the ways that occur: refused in one line, or left out and named."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from asr.data.store.manifest import read_cuts, write_cuts

from .conftest import TINY, Workspace, run_apart, visible_files

LONG = "many words " * 9091  # 100,001 characters


def words_for(command: str, space: Workspace, model: Path, out: Path) -> list[object]:
    rest: dict[str, list[object]] = {
        "decode": ["--model", model, "--cuts", space.cuts, "--out", out],
        "transcribe": [space.audio, "--model", model],
        "push": [model, out],
        "pull": [model, "--out", out],
    }
    return [command, *rest[command]]


@pytest.mark.parametrize("command", ["decode", "transcribe", "push", "pull"])
def test_weights_of_another_shape(command: str, workspace: Workspace, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(workspace.model / "model", model)
    weights = load_file(model / "model.safetensors")
    weights["heads.ctc.linear.weight"] = torch.zeros(3, 5)
    save_file(weights, model / "model.safetensors")
    outcome = run_apart(words_for(command, workspace, model, out))
    outcome.refused("model.safetensors", "not the weights of", "heads.ctc.linear.weight")
    assert not out.exists()


def manifest_words(command: str, manifest: Path, space: Workspace, out: Path) -> list[object]:
    rest: dict[str, list[object]] = {
        "subset": ["--cuts", manifest, "--out", out / "s.cuts.jsonl.gz"],
        "train": ["--exp", out, *TINY, f"data.train=[{manifest}]", f"data.dev=[{manifest}]"],
        "decode": ["--model", space.model, "--cuts", manifest, "--out", out],
    }
    return [command, *rest[command]]


readers = pytest.mark.parametrize("command", ["subset", "train", "decode"])


@readers
def test_a_manifest_with_an_id_twice(command: str, workspace: Workspace, tmp_path: Path) -> None:
    manifest, out = tmp_path / "twice.cuts.jsonl.gz", tmp_path / "out"
    cuts = list(read_cuts(workspace.cuts))
    write_cuts([*cuts, cuts[0]], manifest)
    run_apart(manifest_words(command, manifest, workspace, out)).refused(cuts[0].id)
    assert visible_files(out) == {}


@readers
def test_a_manifest_that_is_not_utf8(command: str, workspace: Workspace, tmp_path: Path) -> None:
    manifest, out = tmp_path / "latin.cuts.jsonl.gz", tmp_path / "out"
    lines = gzip.decompress(workspace.cuts.read_bytes())
    manifest.write_bytes(gzip.compress(lines.replace(b'"text": "', b'"text": "caf\xe9 ', 1)))
    run_apart(manifest_words(command, manifest, workspace, out)).refused("latin.cuts.jsonl.gz")
    assert visible_files(out) == {}


def test_an_endless_transcript(workspace: Workspace, tmp_path: Path) -> None:
    """Cannot be trained on; can be decoded and scored."""
    manifest, out = tmp_path / "long.cuts.jsonl.gz", tmp_path / "out"
    cut = next(iter(read_cuts(workspace.cuts)))
    cut.supervisions[0].text = LONG
    write_cuts([cut], manifest)
    outcome = run_apart(manifest_words("train", manifest, workspace, tmp_path / "exp"))
    outcome.refused("nothing to train on")
    assert run_apart(manifest_words("decode", manifest, workspace, out)).code == 0
    assert json.loads((out / "score.json").read_text())["reference_words"] == 2 * 9091


def corpus(form: str, root: Path, text: bytes, twice: bool = False) -> Path:
    """One utterance with that transcript."""
    root.mkdir()
    soundfile.write(root / "a.wav", [0.1, -0.1] * 8000, 16000)
    if form == "folder":
        (root / "a.txt").write_bytes(text)
        return root
    if form == "tsv":
        (root / "t.tsv").write_bytes(
            b"path\tsentence\n" + (b"a.wav\t" + text + b"\n") * (1 + twice)
        )
        return root / "t.tsv"
    if form == "jsonl":
        line = b'{"audio_filepath": "a.wav", "text": "' + text + b'"}\n'
        (root / "n.json").write_bytes(line * (1 + twice))
        return root / "n.json"
    (root / "wav.scp").write_text(f"a {root}/a.wav\n" * (1 + twice))
    (root / "text").write_bytes((b"a " + text + b"\n") * (1 + twice))
    return root


forms = pytest.mark.parametrize("form", ["folder", "tsv", "jsonl", "kaldi"])


@forms
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"caf\xe9", "unreadable transcript"),
        (LONG.encode(), "transcript too long for CTC"),
        (b" ", "empty transcript"),
    ],
)
def test_transcripts_that_cannot_be_used(
    form: str, text: bytes, reason: str, tmp_path: Path
) -> None:
    source, out = corpus(form, tmp_path / "c", text), tmp_path / "out"
    run_apart(["prepare", form, "--corpus", source, "--out", out]).refused(reason)
    assert not out.exists()


@pytest.mark.parametrize("form", ["tsv", "jsonl", "kaldi"])
def test_an_utterance_twice_is_kept_once(form: str, tmp_path: Path) -> None:
    source, out = corpus(form, tmp_path / "c", b"word", twice=True), tmp_path / "out"
    assert run_apart(["prepare", form, "--corpus", source, "--out", out]).code == 0
    (report,) = out.glob("*.report.json")
    content = json.loads(report.read_text())
    assert content["num_utterances"] == 1
    assert content["left_out_counts"]["duplicate id"] >= 1


@pytest.mark.parametrize("command", ["score", "compare"])
@pytest.mark.parametrize("damage", ["twice", "latin"])
def test_hypotheses_that_are_damaged(
    command: str, damage: str, workspace: Workspace, tmp_path: Path
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(workspace.model, exp)
    path = exp / "decode" / "few" / "hypotheses.jsonl"
    line = path.read_bytes().splitlines(keepends=True)[0]
    path.write_bytes(path.read_bytes() + (line if damage == "twice" else b'"caf\xe9"\n'))
    before = visible_files(exp)
    words = [exp / "decode" / "few"] if command == "score" else [exp, "--out", tmp_path / "out"]
    run_apart([command, *words]).refused("hypotheses.jsonl")
    assert visible_files(exp) == before
    assert not (tmp_path / "out").exists()
