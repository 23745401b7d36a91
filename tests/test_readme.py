"""What the README says, done: its commands run as they stand there, on data made on the spot."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import soundfile

from asr.cli import main
from asr.data.manifest import load_waveform, read_cuts

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Appended to the README's `asr train`: a model of seconds instead of days.
TINY = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.epochs=1",
    "train.num_threads=1",
    "train.tensorboard=false",
]


def blocks(section: str) -> list[str]:
    """The code blocks under the heading that starts with ``section``."""
    found = re.search(rf"^(#+) {re.escape(section)}.*?$(.*?)(?=^#+ |\Z)", README, re.M | re.S)
    assert found, f"README.md has no section {section!r}"
    return re.findall(r"^```\w*\n(.*?)^```", found.group(2), re.M | re.S)


def commands(block: str) -> list[list[str]]:
    """The words of each line, comments left out and continued lines joined."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(block: str) -> None:
    for program, *words in commands(block):
        assert program == "asr"
        assert main([*words, *(TINY if words[0] == "train" else [])]) == 0, words


def speak(corpus: Path, part: str, folder: Path) -> list[tuple[Path, str, str]]:
    """MP3 files of synthetic speech: (file, text, speaker)."""
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for cut in read_cuts(corpus / f"{part}.cuts.jsonl.gz"):
        (supervision,) = cut.supervisions
        path = folder / f"{cut.id}.mp3"
        soundfile.write(path, load_waveform(cut, 16000), 16000)
        told.append((path, supervision.text, supervision.speaker))
    return told


def decoded(folder: Path) -> int:
    """Utterances that were decoded and scored."""
    score = json.loads((folder / "score.json").read_text())
    assert score["reference_words"] > 0
    lines = (folder / "hypotheses.jsonl").read_text().splitlines()
    assert len(lines) == score["num_utterances"]
    return len(lines)


def test_common_voice_from_prepare_to_a_decoded_test_set(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "cv-corpus" / "en"
    for part in ("train", "dev", "test"):
        rows = ["client_id\tpath\tsentence\tup_votes"]
        for path, text, speaker in speak(tiny_corpus, part, corpus / "clips"):
            rows.append(f"{speaker}\t{path.name}\t{text.capitalize()}.\t2")
        (corpus / f"{part}.tsv").write_text("\n".join(rows) + "\n")
    run(blocks("Your own data")[0])
    assert decoded(tmp_path / "exp" / "cv" / "decode" / "test") == 6


def test_a_folder_of_mp3_files_from_prepare_to_a_decoded_test_set(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part in ("train", "dev", "test"):
        for path, text, speaker in speak(tiny_corpus, part, tmp_path / "mp3"):
            home = tmp_path / "talks" / speaker / path.name
            home.parent.mkdir(parents=True, exist_ok=True)
            path.rename(home).with_suffix(".txt").write_text(text)
    run(blocks("Your own data")[1])
    parts = {
        part: {cut.supervisions[0].speaker for cut in read_cuts(f"data/talks/{part}.cuts.jsonl.gz")}
        for part in ("train", "dev", "test")
    }
    assert not parts["test"] & (parts["train"] | parts["dev"])
    assert decoded(tmp_path / "exp" / "talks" / "decode" / "test") == len(
        read_cuts("data/talks/test.cuts.jsonl.gz")
    )
