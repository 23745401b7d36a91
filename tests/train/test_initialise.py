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


def test_a_head_that_is_not_there_is_new_and_one_that_is_not_here_is_left(tmp_path: Path) -> None:
    make(tmp_path / "ctc")
    both = ["model.heads=[ctc,attention]", "decoder.num_layers=1", "decoder.num_heads=2"]
    made = make(tmp_path / "both", *both).state_dict()
    ctc = load_model(tmp_path / "ctc").net.state_dict()
    start = read_start(tmp_path / "ctc", config.load([], [*SMALL, *both]))
    torch.manual_seed(7)
    net = Recogniser(config.load([], [*SMALL, *both]), start.tokenizer.vocab_size)
    fresh = {name: value.clone() for name, value in net.state_dict().items()}
    line = take_weights(net, start, start.tokenizer)
    assert line.endswith(f"{tmp_path / 'ctc'}, its tokenizer too; new: the head attention")
    for name, value in net.state_dict().items():
        assert torch.equal(value, fresh[name] if "heads.attention" in name else ctc[name])
    start = read_start(tmp_path / "both", config.load([], SMALL))
    net = Recogniser(config.load([], SMALL), start.tokenizer.vocab_size)
    line = take_weights(net, start, start.tokenizer)
    assert line.endswith(", its tokenizer too; left there: the head attention")
    for name, value in net.state_dict().items():
        assert torch.equal(value, made[name])
    other = train_tokenizer(["jumps over"], config.load([], SMALL).tokenizer)
    net = Recogniser(config.load([], [*SMALL, *both]), other.vocab_size)
    line = take_weights(net, start, other)
    assert line.endswith("; new, for another tokenizer: the heads ctc and attention")
