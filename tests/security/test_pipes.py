"""Pipes and devices where a stranger's folder should hold files: refused at once, never waited for."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_experiments import write_decoded, write_experiment

from asr import config
from asr.cli import main
from asr.data.corpora.common import read_lines
from asr.errors import InputError
from asr.files import file_hash, open_regular, read_json_object, read_text
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")

TOO_LONG_S = 20


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Make whoever waits for a pipe fail instead."""

    def late(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(TOO_LONG_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(kind: str, path: Path) -> None:
    """A pipe that nobody writes to, or a link to a device without an end, in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


KINDS = pytest.mark.parametrize("kind", ["pipe", "device"])


@KINDS
def test_no_reader_of_whole_files_waits(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    put(kind, path)
    with pytest.raises(OSError, match="a folder, a pipe or a device"):
        open_regular(path)
    for read in (read_text, read_json_object, file_hash, lambda path: list(read_lines(path, []))):
        with pytest.raises(InputError, match="a folder, a pipe or a device"):
            read(path)


RESULTS = ["run.json", "log.jsonl", "config.yaml"]
RESULTS += [f"decode/test/{name}" for name in ("decode.json", "hypotheses.jsonl", "score.json")]


@KINDS
@pytest.mark.parametrize("name", RESULTS)
def test_results(kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for exp in ("a", "b"):
        write_decoded(write_experiment(tmp_path / exp), "test", 0.1)
    put(kind, tmp_path / "b" / name)
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    main(["compare", *folders, "--html", str(tmp_path / "page.html"), "--out", str(tmp_path / "c")])
    main(["score", str(tmp_path / "b" / "decode" / "test")])
    assert "Traceback" not in capsys.readouterr().err


@KINDS
def test_models(kind: str, tmp_path: Path) -> None:
    settings = ["encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=16"]
    settings += ["encoder.subsampling_channels=4", "attention.num_heads=2", "tokenizer.kind=char"]
    made = config.load([], settings)
    tokenizer = train_tokenizer(["ab"], made.tokenizer)
    weights = Recogniser(made, tokenizer.vocab_size).state_dict()
    save_model(tmp_path / "model", weights, made, tokenizer)
    for name in sorted(path.name for path in (tmp_path / "model").iterdir()):
        folder = tmp_path / f"with {name}"
        shutil.copytree(tmp_path / "model", folder)
        put(kind, folder / name)
        with pytest.raises(InputError):
            load_model(folder)
