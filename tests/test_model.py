"""The recogniser as a whole: what it must not depend on, and its folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from asr import config
from asr.config import Config
from asr.errors import InputError
from asr.model import Recogniser, ctc_loss
from asr.model_folder import load_model, save_model
from asr.nn.attention import POSITIONS, WEIGHTINGS
from asr.nn.encoder import LAYERS
from asr.search.greedy import greedy
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


GRID = list(itertools.product(WEIGHTINGS, POSITIONS, LAYERS))


@pytest.mark.parametrize(("weighting", "position", "encoder"), GRID)
def test_padding_batch_and_order_change_nothing(
    weighting: str, position: str, encoder: str
) -> None:
    """An utterance alone, padded, and in two batches: logits within 1e-4, the same greedy text."""
    torch.manual_seed(0)
    net = Recogniser(
        small_config(
            f"attention.weighting={weighting}",
            f"attention.position={position}",
            f"encoder.kind={encoder}",
        ),
        vocab_size=12,
    ).eval()
    for parameter in net.parameters():
        # away from the initialisation, where the u and v of relative positions are zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    lens = [16000, 4321, 9999, 700]
    waves = [0.3 * torch.randn(length) for length in lens]

    def logits(order: list[int], extra: int) -> dict[int, torch.Tensor]:
        longest = max(lens[i] for i in order) + extra
        wave_bn = torch.zeros(len(order), longest)
        for row, i in enumerate(order):
            wave_bn[row, : lens[i]] = waves[i]
        with torch.inference_mode():
            log_probs, lens_b = net(wave_bn, torch.tensor([lens[i] for i in order]))
        texts = [best.tokens for best in greedy(log_probs, lens_b)]
        found = {i: log_probs[row, : lens_b[row]] for row, i in enumerate(order)}
        tokens.append({i: texts[row] for row, i in enumerate(order)})
        return found

    tokens: list[dict[int, tuple[int, ...]]] = []
    alone = {i: logits([i], 0)[i] for i in range(4)}
    alone_tokens = {i: tokens[i][i] for i in range(4)}
    for order, extra in (([0, 1, 2, 3], 0), ([3, 1, 0, 2], 5000), ([2, 1], 1)):
        for i, found in logits(order, extra).items():
            assert found.shape == alone[i].shape
            torch.testing.assert_close(found, alone[i], atol=1e-4, rtol=0)
            assert tokens[-1][i] == alone_tokens[i]


@pytest.mark.parametrize(("weighting", "position", "encoder"), GRID)
def test_every_parameter_gets_a_finite_gradient(
    weighting: str, position: str, encoder: str
) -> None:
    torch.manual_seed(0)
    net = Recogniser(
        small_config(
            f"attention.weighting={weighting}",
            f"attention.position={position}",
            f"encoder.kind={encoder}",
        ),
        vocab_size=12,
    )
    log_probs, lens_b = net(0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000]))
    tokens_bu = torch.tensor([[3, 4, 4], [5, 0, 0]])
    ctc_loss(log_probs, lens_b, tokens_bu, torch.tensor([3, 1])).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or name.endswith("project_qkv.bias"), name


def test_output_frames_are_what_the_model_gives() -> None:
    net = Recogniser(small_config(), vocab_size=5).eval()
    for num_samples in (400, 401, 1040, 16000, 16159, 16160):
        _, lens_b = net(torch.zeros(1, num_samples), torch.tensor([num_samples]))
        assert net.num_output_frames(num_samples) == int(lens_b[0])


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
