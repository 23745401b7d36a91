"""The model in the box: it works without a name, by its name, and from an installed package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr import box
from asr.cli import main
from asr.config import load as load_config
from asr.errors import InputError
from asr.files import file_hash
from asr.formats import upgrade_weights
from asr.model.folder import find_model, load_model
from asr.model.recogniser import count_parameters
from asr.run_folder import CARD, CARRIED_LM, CONFIG, SEARCH_WEIGHTS, WEIGHTS
from asr.share.boxed import describe, read_card
from asr.weights_file import WeightsFile
from asr.wer import count_errors

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("SIGMOID_ASR_DATA")
MOST_BYTES = 20_000_000
NOTE = "asr: note: using real-en, a model that comes with the package; --model names another\n"


@pytest.fixture
def talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file of noise, in the current folder."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, 24000)
    soundfile.write("talk.wav", noise, 16000)
    return "talk.wav"


def test_every_model_of_the_box_loads_and_is_small() -> None:
    folders = {path.name for path in Path(box.__file__).parent.iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(box.NAMES)
    sizes = [path.stat().st_size for path in Path(box.__file__).parent.rglob("*") if path.is_file()]
    assert sum(sizes) < MOST_BYTES
    for name in box.NAMES:
        model = load_model(Path(name))
        card = read_card(name)
        assert model.folder == card.folder == box.folder(name)
        assert card.parameters == count_parameters(model.net)
        assert all(rate.low < rate.percent < rate.high for rate in card.error_rates)


def test_figures_of_a_card_stand_in_one_place() -> None:
    for name in box.NAMES:
        card = read_card(name)
        for rate in card.error_rates:
            assert f"{rate.percent}" not in card.text
        assert f"{card.real_time_factor}" not in card.text


def test_without_a_model_the_box_is_used_and_named_once(
    talk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(talk, "other.wav")
    Path("real-en").mkdir()  # no name was given, so no folder of that name is taken for it
    assert main(["transcribe", talk, "other.wav", "--threads", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count(NOTE) == 1
    Path("real-en").rmdir()
    assert main(["transcribe", talk, "other.wav", "--model", "real-en", "--threads", "1"]) == 0
    named = capsys.readouterr()
    assert named.out == printed.out
    assert NOTE not in named.err


def test_load_without_a_folder_reads_the_box() -> None:
    expected = load_model(box.folder(box.DEFAULT)).net.state_dict()
    for transcriber in (asr.load(device="cpu"), asr.load("real-en", device="cpu")):
        found = transcriber.model.net.state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_path_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model(Path("real-en")) == box.folder("real-en")
    for text in ("./real-en", "real-en/"):  # no name
        with pytest.raises(InputError, match="real-en: no such model folder"):
            asr.load(text)
        assert (
            main(["align", "--model", text, "--audio", "a.wav", "--text", "a", "--out", "o"]) == 2
        )
    shutil.copytree(box.folder("real-en"), "real-en")
    assert find_model(Path("real-en")) == Path("real-en")
    shutil.rmtree("real-en")
    Path("real-en").mkdir()
    with pytest.raises(InputError, match=r"^real-en: not a model folder: config\.yaml is missing"):
        find_model(Path("real-en"))


def refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


@pytest.mark.parametrize("name", ["real-en", str(box.folder("real-en"))])
def test_what_would_write_into_the_package_is_refused(
    name: str, talk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: file_hash(path) for path in box.folder("real-en").iterdir()}
    tune = ["tune", "--model", name, "--cuts", "dev.cuts.jsonl.gz", "--lm", "lm.arpa"]
    copy = f"copy it first: asr export --model {name} --format int8 --out FOLDER"
    refused(tune, f"model real-en: nothing is written into the package; {copy}", capsys)
    decode = ["decode", "--model", name, "--cuts", "test.cuts.jsonl.gz"]
    refused(decode, "name a folder for the results with --out", capsys)
    assert {path: file_hash(path) for path in box.folder("real-en").iterdir()} == before


def test_commands_that_read_a_model_take_the_name(
    tiny_corpus: Path, talk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cuts = str(tiny_corpus / "test.cuts.jsonl.gz")
    one = ["--threads", "1"]
    assert main(["decode", "--model", "real-en", "--cuts", cuts, "--out", "decoded", *one]) == 0
    align = ["align", "--model", "real-en", "--cuts", cuts, "--out", "aligned", *one]
    assert main(align) == 0
    assert main(["export", "--model", "real-en", "--format", "int8", "--out", "mine"]) == 0
    # the same but for the names of the newest format
    theirs, mine = box.folder("real-en"), Path("mine")
    for name in (CARD, CARRIED_LM, SEARCH_WEIGHTS, "tokenizer.model"):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes()
    assert load_config([mine / CONFIG]) == load_config([theirs / CONFIG], follow_base=False)
    expected = upgrade_weights(WeightsFile(theirs / WEIGHTS).load_stored())
    found = WeightsFile(mine / WEIGHTS).load_stored()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(list(mine.iterdir())) == len(list(theirs.iterdir())) == 6
    # shared and fetched, it is whole: its card has the attributions that its licence asks for
    assert main(["push", "real-en", "./shared-en"]) == 0
    assert main(["pull", "./shared-en", "--out", "fetched"]) == 0
    for name in ("README.md", "lm.arpa.gz", "search.yaml"):
        same = (box.folder("real-en") / name).read_bytes()
        assert (Path("fetched") / name).read_bytes() == same
    capsys.readouterr()
    refused(["push", "reel-en", "./shared"], "reel-en: no such model folder", capsys)


def test_models_are_listed_and_the_card_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    card = read_card("real-en")
    assert listed == f"{describe(card)}\n"
    assert listed.startswith("real-en (default)\n")
    facts = {line[:18].strip() for line in listed.splitlines()}
    assert {"language", "parameters", "size", "WER % [95 %]", "real-time factor"} <= facts
    assert {"training", "training data", "licence", "limits", "sha256"} <= facts
    assert file_hash(box.folder("real-en") / "model.safetensors") in listed
    for name in ("dev-clean-mini", "test-clean-mini", "test-commonvoice"):
        assert re.search(rf"\d\.\d\d \[\d+\.\d\d, \d+\.\d\d\] over speakers: {name}, ", listed)
    assert main(["models", "real-en"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{describe(card)}\n\n{card.text}\n"
    for claim in ("no imported weights", "no machine-made labels", "CC BY 4.0", "Panayotov"):
        assert claim in printed
    refused(["models", "reel-en"], "no model 'reel-en' in the package; there is real-en", capsys)


@pytest.fixture
def other_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the box, in which files can be changed."""
    copy = tmp_path / "box"
    shutil.copytree(box.folder("real-en"), copy / "real-en")
    monkeypatch.setattr(box, "_HERE", copy)
    return copy / "real-en"


def test_a_broken_installation_is_one_line(
    other_box: Path, talk: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("model.safetensors", "tokenizer.model", "config.yaml", "README.md")
    for name in (*names, "lm.arpa.gz", "search.yaml"):
        (other_box / name).rename(other_box / "away")
        words = f"model real-en: {other_box / name} is missing: install sigmoid-asr again"
        with pytest.raises(InputError, match=re.escape(words)):
            asr.load()
        refused(["models"], words, capsys)
        refused(["align", "--model", "real-en", "--audio", talk, "--text", "a", "--out", "o"], words, capsys)  # fmt: skip  # noqa: E501
        (other_box / "away").rename(other_box / name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("---\nlicense", "license", "no metadata between two lines of --- at its top"),
        ("license: ", "license: [", "not valid yaml"),
        ("parameters: 1", "parameters: x1", "'parameters' is 'x1"),
        ("{set: dev-clean-mini, search: greedy", "{search: greedy", "no 'set'"),
        ("wer:\n", "wer:\n- dev\n", "'wer' holds 'dev'"),
        ("language: en\n", "", "no 'language'"),
        ("- for the 3-gram, ", "- for the 3-gram: ", "'training_data' holds {"),
    ],
)
def test_a_damaged_card_is_one_line(
    other_box: Path, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = other_box / "README.md"
    text = card.read_text()
    assert text.count(old) == 1
    card.write_text(text.replace(old, new))
    refused(["models"], message, capsys)


# In a process of its own: setuptools puts itself in the place of distutils.
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""


@pytest.mark.skipif(find_spec("setuptools") is None, reason="setuptools is not installed")
def test_wheel_and_sdist_carry_the_box(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("asr", "kernels"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    subprocess.run(
        [sys.executable, "-c", BUILD, tmp_path], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    (sdist,) = tmp_path.glob("*.tar.gz")
    assert wheel.stat().st_size < MOST_BYTES
    assert sdist.stat().st_size < MOST_BYTES
    with zipfile.ZipFile(wheel) as packed:
        inside = {name for name in packed.namelist() if name.startswith("asr/box/")}
        expected = {f"asr/box/real-en/{path.name}" for path in box.folder("real-en").iterdir()}
        assert inside == {"asr/box/__init__.py", *expected}
        weights = packed.read("asr/box/real-en/model.safetensors")
    assert weights == (box.folder("real-en") / "model.safetensors").read_bytes()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert expected <= names


@pytest.mark.skipif(DATA is None, reason="SIGMOID_ASR_DATA is unset: no real speech here")
def test_half_of_the_words_of_real_speech_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chapter = Path(str(DATA), "librispeech-mini/LibriSpeech/test-clean-mini/1970/10594")
    lines = (chapter / "1970-10594.trans.txt").read_text().splitlines()
    name, _, text = min(lines).partition(" ")
    monkeypatch.chdir(tmp_path)
    assert main(["transcribe", str(chapter / f"{name}.flac"), "--threads", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.err == NOTE
    counts = count_errors(text.lower().split(), printed.out.split())
    assert counts.correct >= counts.reference_words / 2
    # by default its language model takes part, with the weights and the beam of its tuning
    lm = str(box.folder("real-en") / "lm.arpa.gz")
    for words in (["beam", "--beam", "16", "--lm", lm], ["greedy"]):
        file = str(chapter / f"{name}.flac")
        assert main(["transcribe", file, "--threads", "1", "--search", *words]) == 0
        assert (capsys.readouterr().out == printed.out) == (words[0] == "beam")
