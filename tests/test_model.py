"""The recogniser as a whole: what it must not depend on, and its folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr import config
from asr.config import Config
from asr.errors import InputError
from asr.model import Recogniser, ctc_loss
from asr.model_folder import _exchange, load_model, new_folder, save_model
from asr.text.tokenizer import train_tokenizer

SMALL = [
    "encoder.num_layers=2",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "attention.num_heads=4",
    "tokenizer.kind=char",
]


def small_config(*overrides: str) -> Config:
    return config.load([], [*SMALL, *overrides])


@pytest.mark.parametrize("factor", [4, 8])
def test_output_frames_are_what_the_model_gives(factor: int) -> None:
    net = Recogniser(small_config(f"encoder.subsampling={factor}"), vocab_size=5).eval()
    for num_samples in (400, 401, 1040, 16000, 16159, 16160):
        _, lens_b = net(torch.zeros(1, num_samples), torch.tensor([num_samples]))
        assert net.num_output_frames(num_samples) == int(lens_b[0])


def test_intermediate_losses_are_those_of_the_layers_outputs() -> None:
    torch.manual_seed(0)
    cut = ["encoder.num_layers=3", "encoder.dropout=0"]
    options = [*cut, "encoder.intermediate_ctc=[1, 2]", "encoder.intermediate_ctc_weight=0.25"]
    net = Recogniser(small_config(*options), vocab_size=12)
    waves, lens = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    tokens, token_lens = torch.tensor([[3, 4, 4], [5, 0, 0]]), torch.tensor([3, 1])

    def loss_of_the_first(num_layers: int) -> torch.Tensor:
        shorter = Recogniser(small_config(*cut, f"encoder.num_layers={num_layers}"), 12)
        shorter.load_state_dict(net.state_dict(), strict=False)
        return ctc_loss(*shorter(waves, lens), tokens, token_lens)

    first, second, last = (loss_of_the_first(num_layers) for num_layers in (1, 2, 3))
    expected = 0.75 * last + 0.25 * (first + second) / 2
    torch.testing.assert_close(net.loss(waves, lens, tokens, token_lens), expected)
    torch.testing.assert_close(ctc_loss(*net(waves, lens), tokens, token_lens), last)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cfg = small_config("attention.position=relative")
    tokenizer = train_tokenizer(["a man", "can"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    net.norm.mean_f.fill_(0.5)
    save_model(tmp_path / "exp" / "model", net.state_dict(), cfg, tokenizer)
    return tmp_path / "exp"


def test_folder_round_trip_gives_the_same_logits(folder: Path) -> None:
    model = load_model(folder)
    torch.manual_seed(0)
    net = Recogniser(model.config, model.tokenizer.vocab_size).eval()
    net.norm.mean_f.fill_(0.5)
    wave, lens = 0.1 * torch.randn(1, 8000), torch.tensor([8000])
    torch.testing.assert_close(model.net(wave, lens)[0], net(wave, lens)[0])
    assert sorted(path.name for path in (folder / "model").iterdir()) == [
        "config.yaml",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_folder_without_weights_or_with_wrong_ones_is_refused(folder: Path) -> None:
    weights = folder / "model" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        load_model(folder)
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_model(folder)
    weights.write_bytes(content)
    yaml = folder / "model" / "config.yaml"
    yaml.write_text(yaml.read_text().replace("num_layers: 2", "num_layers: 3"))
    with pytest.raises(InputError, match=r"not the weights of"):
        load_model(folder)
    with pytest.raises(InputError, match="no such model folder"):
        load_model(folder / "nowhere")


def test_a_strangers_folder_cannot_read_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    yaml = folder / "model" / "config.yaml"
    text = yaml.read_text()
    yaml.write_text(text.replace("device: auto", "device: ${oc.env:SECRET}"))
    with pytest.raises(InputError, match="interpolation is not allowed") as caught:
        load_model(folder)
    assert "hunter2" not in str(caught.value)
    yaml.write_text(text + "\nbase: " + str(folder / "other.yaml") + "\n")
    with pytest.raises(InputError, match="base"):
        load_model(folder)


WATCH = "import os, sys\nprint('up', flush=True)\nwhile True:\n    os.stat(sys.argv[1])\n"


def test_a_replaced_folder_is_there_at_every_moment(tmp_path: Path) -> None:
    """A watcher asks for it without a pause, as whoever comes after a kill would find it."""
    if not _exchange(*(_made(tmp_path / name) for name in "ab")):
        pytest.skip("this file system cannot swap two folders in one step")
    folder = _made(tmp_path / "model")
    words = [sys.executable, "-c", WATCH, str(folder)]
    watcher = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert watcher.stdout is not None
    watcher.stdout.readline()
    try:
        for number in range(1000):
            with new_folder(folder, replace=True) as filled:
                (filled / "number").write_text(str(number))
        assert watcher.poll() is None, "it was gone for a moment"
    finally:
        watcher.kill()
        watcher.wait()
    assert (folder / "number").read_text() == "999"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "model"]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
