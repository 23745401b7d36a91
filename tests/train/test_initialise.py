"""Weights to begin from: what they meant where they come from is kept, or said to have changed."""

from __future__ import annotations

from pathlib import Path

import torch

from asr import config
from asr.model.folder import CONFIG, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import load_tokenizer, train_tokenizer
from asr.train.initialise import read_start, take_weights

SMALL = [
    "encoder.num_layers=1",
    "encoder.dim=16",
    "encoder.ff_dim=16",
    "encoder.conv_kernel=3",
    "encoder.subsampling_channels=4",
    "attention.num_heads=2",
    "tokenizer.kind=char",
]


def make(folder: Path, *options: str) -> Recogniser:
    chosen = config.load([], [*SMALL, *options])
    tokenizer = train_tokenizer(["the quick brown fox"], chosen.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(chosen, tokenizer.vocab_size).eval()
    save_model(folder, net.state_dict(), chosen, tokenizer)
    return net


def test_a_folder_of_an_older_version_means_what_it_meant(tmp_path: Path) -> None:
    """It says count: visible, and knows no exponent."""
    net = make(tmp_path / "model", "attention.count=visible")
    path = tmp_path / "model" / CONFIG
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "shift_exponent" not in line))
    chosen = config.load([path])
    assert chosen.attention.count == "visible"
    assert not chosen.attention.shift_exponent
    # again, since the weights carry a sum of the configuration beside them
    save_model(tmp_path / "again", net.state_dict(), chosen, load_tokenizer(tmp_path / "model"))
    found = load_model(tmp_path / "again").net
    wave_bn, lens_b = torch.randn(1, 16000), torch.tensor([16000])
    with torch.inference_mode():
        torch.testing.assert_close(found(wave_bn, lens_b), net(wave_bn, lens_b))


def test_weights_under_another_count_are_reported(tmp_path: Path) -> None:
    """They mean something else then: the shift of a local head moves by more than 2."""
    make(tmp_path / "model", "attention.count=visible")
    chosen = config.load([], SMALL)
    start = read_start(tmp_path / "model", chosen)
    assert start.changed == ["attention.count = 'effective' (there 'visible')"]
    net = Recogniser(chosen, start.tokenizer.vocab_size)
    line = take_weights(net, start, start.tokenizer)
    assert "computed attention otherwise: attention.count = 'effective' (there 'visible')" in line
    same = config.load([], [*SMALL, "attention.count=visible", "attention.backend=reference"])
    start = read_start(tmp_path / "model", same)
    assert start.changed == []
    assert "otherwise" not in take_weights(net, start, start.tokenizer)
