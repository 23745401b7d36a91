"""The command line: bad input gets one line and a non-zero exit; good input gives the words."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sigmoid_attention.weightings import LoopWarning

import asr
from asr import config
from asr.api import load
from asr.cli import COMMANDS, _parser, _warnings_in_one_line, main
from asr.commands.parser import EXAMPLES
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's own way out
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: its words are noise, but the same noise every time."""
    cfg = config.load(
        [], ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    )
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    exp = tmp_path_factory.mktemp("cli") / "exp"
    save_model(exp / "model", Recogniser(cfg, tokenizer.vocab_size).state_dict(), cfg, tokenizer)
    return exp


@pytest.fixture(scope="module")
def speech(tiny_corpus: Path) -> np.ndarray:
    return load_waveform(next(iter(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))), 16000)


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, out, err = result
    assert code == 2
    assert out == ""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("asr: error: ")
    for part in parts:
        assert part in lines[0]


def test_prepare_refuses_what_is_not_there(run: Run, tmp_path: Path, tiny_corpus: Path) -> None:
    out = tmp_path / "out"
    corpus = tiny_corpus / "corpus"
    prepare = ("prepare", "librispeech", "--out", out, "--corpus")
    refused(run(*prepare, tmp_path / "nowhere"), "nowhere")
    refused(run(*prepare, corpus, "--parts", "tset"), "no part 'tset'", "did you mean test?")
    (tmp_path / "corpus" / "empty").mkdir(parents=True)
    refused(run(*prepare, tmp_path / "corpus", "--parts", "empty"), "empty")
    assert not out.exists() or not any(out.iterdir())


def test_train_refuses_a_misspelt_key_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    result = run("train", "--exp", tmp_path / "exp", "attention.wieghting=softmax")
    refused(result, "attention.wieghting", "did you mean attention.weighting?")
    refused(run("train", "--exp", tmp_path / "exp", "train.epochs=-1"), "must be at least 1")
    assert not (tmp_path / "exp").exists()


def test_decode_refuses_a_model_without_weights(run: Run, model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "exp"
    (bare / "model").mkdir(parents=True)
    (bare / "model" / "config.yaml").write_text((model / "model" / "config.yaml").read_text())
    result = run("decode", "--model", bare, "--cuts", "x", "--out", tmp_path / "out")
    refused(result, "model.safetensors is missing")
    refused(
        run(
            "decode",
            "--model",
            model,
            "--cuts",
            tmp_path / "no.jsonl.gz",
            "--out",
            tmp_path / "out",
        ),
        "no.jsonl.gz",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "empty", "nan", "text"])
def test_transcribe_refuses_bad_audio(
    run: Run, model: Path, tmp_path: Path, speech: np.ndarray, kind: str
) -> None:
    path = tmp_path / f"{kind}.flac"
    if kind == "empty":
        path = tmp_path / "empty.wav"
        soundfile.write(path, np.zeros(0, np.float32), 16000)
    elif kind == "nan":
        path = tmp_path / "nan.wav"
        soundfile.write(path, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    elif kind == "text":
        path.write_text("these are words, not sound")
    refused(run("transcribe", path, "--model", model), path.name)


def test_transcribe_goes_on_after_a_bad_file(
    run: Run, model: Path, tmp_path: Path, speech: np.ndarray
) -> None:
    good, bad = tmp_path / "good.wav", tmp_path / "bad.wav"
    soundfile.write(good, speech, 16000)
    bad.write_bytes(b"")
    code, out, err = run("transcribe", bad, good, "--model", model)
    assert code == 3, "some failed"
    assert out.startswith(f"{good}\t")
    assert err.count("\n") == 1
    assert "bad.wav" in err


def test_transcribe_gives_the_same_words_for_any_container(
    run: Run, model: Path, tmp_path: Path, speech: np.ndarray
) -> None:
    """Lossless containers and channel counts exactly; the array through the Python API too."""
    mono, stereo = tmp_path / "mono.flac", tmp_path / "stereo.wav"
    soundfile.write(mono, speech, 16000, subtype="PCM_16")
    soundfile.write(stereo, np.stack([speech, speech], axis=1), 16000, subtype="FLOAT")
    texts = {run("transcribe", path, "--model", model)[1] for path in (mono, stereo)}
    assert len(texts) == 1
    transcriber = load(model, device="cpu")
    assert transcriber.transcribe(speech, 16000).text == texts.pop().strip()
    both = np.stack([speech, speech])
    assert transcriber.transcribe(both, 16000).words == transcriber.transcribe(mono).words
    with pytest.raises(InputError, match="sample_rate"):
        transcriber.transcribe(speech)


def test_a_short_sound_gives_an_empty_text(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "click.wav"
    soundfile.write(path, np.full(10, 0.1, np.float32), 16000)
    assert run("transcribe", path, "--model", model)[:2] == (0, "\n")


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_decode_writes_every_file_and_score_repeats_it(
    run: Run, model: Path, tiny_corpus: Path, tmp_path: Path, search: str
) -> None:
    out = tmp_path / "out"
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    code, printed, _ = run(
        "decode", "--model", model, "--cuts", cuts, "--out", out, "--search", search, "--threads", 1
    )
    assert code == 0
    assert "real-time factor" in printed
    names = {path.name for path in out.iterdir()}
    assert names == {
        "hypotheses.jsonl",
        "decode.json",
        "score.json",
        "ref.trn",
        "hyp.trn",
        "alignment.txt",
    }
    before = (out / "score.json").read_text()
    code, again, _ = run("score", out)
    assert code == 0
    assert again.strip() in printed
    assert (out / "score.json").read_text() == before


def test_subset_chooses_by_length_in_manifest_order(
    run: Run, tiny_corpus: Path, tmp_path: Path
) -> None:
    cuts = tiny_corpus / "train.cuts.jsonl.gz"
    every = [cut for cut in read_cuts(cuts) if 2 <= cut.duration <= 3]
    code, _, _ = run(
        "subset",
        "--cuts",
        cuts,
        "--out",
        tmp_path / "s.cuts.jsonl.gz",
        "--min-s",
        2,
        "--max-s",
        3,
        "--first",
        3,
    )
    assert code == 0
    assert [cut.id for cut in read_cuts(tmp_path / "s.cuts.jsonl.gz")] == [
        cut.id for cut in every[:3]
    ]
    third = tmp_path / "third.cuts.jsonl.gz"
    code, _, _ = run("subset", "--cuts", cuts, "--out", third, "--every", 3)
    assert code == 0
    ids = [cut.id for cut in read_cuts(cuts)]
    assert [cut.id for cut in read_cuts(third)] == ids[::3]
    refused(
        run("subset", "--cuts", cuts, "--out", tmp_path / "t", "--min-s", 900),
        "no utterance of 900",
    )
    refused(run("subset", "--cuts", cuts, "--out", third, "--every", 0), "--every 0: must be")


def test_doctor_runs_every_backend_and_says_why_not(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    lines = [line.split(maxsplit=4) for line in out.splitlines() if line.startswith("attention")]
    works = {
        (device, weighting, backend): verdict for _, device, weighting, backend, verdict in lines
    }
    assert works["cpu", "sigmoid", "blockwise"] == "works"
    assert works["cpu", "softmax", "sdpa"] == "works"
    assert "softmax only" in works["cpu", "sigmoid", "sdpa"]


def test_doctor_names_another_distribution_that_owns_our_import_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "WARNING" not in run("doctor")[1]
    info = tmp_path / "automatic_something-2.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: automatic-something\nVersion: 2.5\n"
    )
    (info / "top_level.txt").write_text("asr\n")
    monkeypatch.syspath_prepend(tmp_path)
    out = run("doctor")[1]
    assert f"asr         imported from {Path(asr.__file__).parent}" in out
    assert "automatic-something 2.5 installs a package asr too" in out
    assert out.count("WARNING") == 1


def test_attention_by_a_loop_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with _warnings_in_one_line():
        for _ in range(2):
            warnings.warn("polynomial runs as a loop", LoopWarning, stacklevel=1)
    assert capsys.readouterr().err == "asr: warning: polynomial runs as a loop\n"


def test_errors_come_without_a_traceback_from_the_installed_command(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("asr")
    run = subprocess.run(
        [command, "transcribe", tmp_path / "no.wav", "--model", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("asr: error: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda module: module.__name__.split(".")[-1])
def test_help_shows_defaults_and_an_example_that_parses(command: object, run: Run) -> None:
    name = command.__name__.split(".")[-1]
    code, out, _ = run(name, "--help")
    assert code == 0
    example = EXAMPLES[name]
    assert example in out
    words = shlex.split(example.rpartition("| ")[2])
    assert words[:2] == ["asr", name]
    assert _parser().parse_all(words[1:], argparse.Namespace()).run


def test_help_of_transcribe_is_grouped_and_shows_defaults(run: Run) -> None:
    _, out, _ = run("transcribe", "--help")
    assert [line for line in out.splitlines() if line.endswith(":") and line[0] != " "][1:] == [
        *("options:", "output:", "audio and windows:", "search:", "machine:", "example:")
    ]
    told = " ".join(out.split())
    for default in ("120.0", "auto", "txt", "fp32"):
        assert f"(default: {default})" in told
    assert "default: beam with the language model that the model carries, else greedy" in told
    assert "(default: None)" not in told


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["trian"], "train"),
        (["prepare", "lhoste"], "lhotse"),
        (["transcribe", "a.wav", "--model", "m", "--formatt", "txt"], "--format"),
        (["decode", "--model", "m", "--cuts", "c", "--num-bset=3"], "--num-best"),
        (["shard", "--cuts", "c", "--out", "o", "--format", "flca"], "flac"),
        (["lm", "train", "--text", "t", "--out", "o", "--odrer", "3"], "--order"),
        (["config", "attention.weightin=softmax"], "weighting"),
        (["config", "attentoin.weighting=softmax"], "attention"),
        (["config", "encoder.kind=conformr"], "conformer"),
        # where a required option is missing, too
        (["train", "--hlp"], "--help"),
        (["train", "--epx", "foo"], "--exp"),
        (["--verson"], "--version"),
    ],
)
def test_a_misspelt_word_gets_the_nearest_right_one(words: list[str], right: str, run: Run) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert re.search(rf"did you mean '?[a-z.]*{right}'?\?", err), err


def test_options_after_a_misspelt_command_are_not_complained_of(run: Run) -> None:
    assert "unrecognized" not in run("trian", "--exp", "x")[2]


def test_a_misspelt_model_of_the_package_is_named(run: Run) -> None:
    refused(run("decode", "--model", "real-em", "--cuts", "x"), "did you mean real-en, which comes")


def test_settings_stand_anywhere_among_the_options() -> None:
    words = shlex.split(
        "train data.train=[x] --exp train.x=1 train.epochs=3 --resume train.epochs=4 --config a.yaml "
        "b.yaml data.dev=[s3://y] --profile train.epochs=3"
    )
    args = _parser().parse_all(words, argparse.Namespace())
    settings = ["data.train=[x]", "train.epochs=3", "train.epochs=4", "data.dev=[s3://y]"]
    assert args.overrides == [*settings, "train.epochs=3"]
    assert (args.exp, args.config) == (Path("train.x=1"), [Path("a.yaml"), Path("b.yaml")])
    assert args.resume
    assert args.profile


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("config --show train.epochs=3 epochs=4", "override 'epochs=4': write it as section.key"),
        ("config train.epochs=3 --shwo train.seed=4", "arguments: --shwo; did you mean --show?"),
        ("config train.epochs=3 --show train.epohcs=4", "did you mean train.epochs?"),
        ("config --show --config train.epochs=4", "--config: expected at least one argument"),
        ("doctor train.epochs=3", "unrecognized arguments: train.epochs=3"),
    ],
)
def test_settings_are_told_from_misspelt_options(words: str, message: str, run: Run) -> None:
    code, out, err = run(*shlex.split(words))
    assert (code, out) == (2, "")
    assert message in err


def test_the_home_folder_is_found_in_any_path(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech: np.ndarray
) -> None:
    """Shells leave ~ alone after =."""
    monkeypatch.setenv("HOME", str(model.parent))
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    for words in ([f"--model=~/{model.name}"], ["--model", f"~/{model.name}"]):
        assert run("transcribe", tmp_path / "a.wav", *words, "--out=~/texts")[0] == 0
        assert (model.parent / "texts" / "a.txt").is_file()
    refused(
        run("transcribe", tmp_path / "a.wav", "--model=~nobody-of-that-name/m"), "no such model"
    )
