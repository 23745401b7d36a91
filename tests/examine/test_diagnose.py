"""The command: table, JSON and picture say the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asr.cli import main
from asr.config import load
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module", params=["ctc", "ctc,attention", "attention"])
def exp(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["encoder.num_layers=2", "encoder.dim=16", "encoder.ff_dim=16", "tokenizer.kind=char"]
    words += ["encoder.conv_kernel=3", "encoder.subsampling_channels=4", "attention.num_heads=2"]
    words += [f"model.heads=[{request.param}]"]
    if "attention" in request.param:
        words += ["decoder.num_layers=1", "decoder.ff_dim=16", "decoder.num_heads=1"]
    config = load([], words)
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], config.tokenizer)
    torch.manual_seed(1)
    net = Recogniser(config, tokenizer.vocab_size)
    exp = tmp_path_factory.mktemp("diagnosed")
    save_model(exp / "model", net.state_dict(), config, tokenizer)
    return exp


def test_table_file_and_picture(
    exp: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["diagnose", exp, "--cuts", tiny_corpus / "test.cuts.jsonl.gz", "--threads", 1]
    files = ["--json", tmp_path / "d.json", "--picture", tmp_path / "d.png"]
    assert main([str(word) for word in [*words, "--utterances", 2, "--near", 7, *files]]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "d.json").read_text())
    layers = content["diagnosis"]["layers"]
    assert len(content["ids"]) == 2
    names = ["1", "2"]
    if "- attention\n" in (exp / "model/config.yaml").read_text():
        names += ["decoder1.self", "decoder1.cross"]
    assert [layer["name"].removeprefix("layer") for layer in layers] == names
    lines = [line.split() for line in printed.splitlines()]
    for name, layer in zip(names, layers, strict=True):
        (line,) = [line for line in lines if line[:2] == [name, "1"]]
        share = layer["output_norm"] / layer["residual_norm"]
        figures = [*layer["heads"][0].values(), share, layer["gradient_norm"]]
        figures.append(layer["jacobian_norm"])
        assert line[2:] == ["-" if value is None else f"{value:.3g}" for value in figures]
    assert "within 7 frames (0.28 s; in a decoder tokens)" in printed
    assert "overflow: none" in printed
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(exp), "--cuts", str(tmp_path / "none.cuts.jsonl.gz")]) == 2
    assert "none.cuts.jsonl.gz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["diagnose", str(exp), "--cuts", "x", "--utterances", "0"])
