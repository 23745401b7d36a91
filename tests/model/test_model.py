"""The recogniser as a whole: what it must not depend on, and its folder."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr import config
from asr.config import Config
from asr.errors import InputError
from asr.model import folder as model_folder
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser, check_finite, weight_shapes
from asr.text.tokenizer import tokenizer_file, train_tokenizer

SMALL = [
    "encoder.num_layers=2",
    "encoder.dim=32",
    "encoder.ff_dim=48",
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
    options = [*cut, "ctc.intermediate_layers=[1, 2]", "ctc.intermediate_weight=0.25"]
    net = Recogniser(small_config(*options), vocab_size=12)
    waves, lens = 0.1 * torch.randn(2, 16000), torch.tensor([16000, 9000])
    tokens, token_lens = torch.tensor([[3, 4, 4], [5, 0, 0]]), torch.tensor([3, 1])

    def loss_of_the_first(num_layers: int) -> torch.Tensor:
        shorter = Recogniser(small_config(*cut, f"encoder.num_layers={num_layers}"), 12)
        shorter.load_state_dict(net.state_dict(), strict=False)
        return shorter.head().loss_of_frames(*shorter(waves, lens), tokens, token_lens)

    first, second, last = (loss_of_the_first(num_layers) for num_layers in (1, 2, 3))
    expected = 0.75 * last + 0.25 * (first + second) / 2
    torch.testing.assert_close(net.loss(waves, lens, tokens, token_lens), expected)
    found = net.head().loss_of_frames(*net(waves, lens), tokens, token_lens)
    torch.testing.assert_close(found, last)


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


def test_every_file_of_a_folder_can_be_read_by_whom_the_umask_lets(folder: Path) -> None:
    modes = {path.stat().st_mode for path in (folder / "model").iterdir()}
    (folder / "any").touch()
    assert modes == {(folder / "any").stat().st_mode}


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
    with pytest.raises(InputError, match=r"model\.safetensors: a file; a model is a folder$"):
        load_model(folder / "model" / "model.safetensors")


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


@pytest.mark.parametrize("weighting", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "options",
    [
        ["attention.position=relative"],
        ["attention.position=table", "encoder.kind=transformer"],
        ["attention.position=cape", "attention.keys=linformer", "encoder.norm=post"],
        ["attention.position=rope", "encoder.kind=ebranchformer", "encoder.cgmlp_dim=20"],
        ["attention.position=alibi", "encoder.layer_scale=0.1", "encoder.subsampling=8"],
        ["encoder.conv_norm=rmsnorm", "attention.num_kv_heads=2", "attention.output_norm=true"],
    ],
)
def test_shapes_that_a_configuration_implies_are_the_models(
    options: list[str], weighting: str
) -> None:
    cfg = small_config(f"attention.weighting={weighting}", *options)
    expected = {name: value.shape for name, value in Recogniser(cfg, 7).state_dict().items()}
    assert weight_shapes(cfg, 7) == expected


def test_a_configuration_of_a_larger_model_allocates_nothing(folder: Path) -> None:
    yaml = folder / "model" / "config.yaml"
    text = yaml.read_text()
    huge = text.replace("num_layers: 2", "num_layers: 64").replace("dim: 32", "dim: 16384")
    yaml.write_text(huge.replace("ff_dim: 48", "ff_dim: 65536"))  # 500 GB
    with pytest.raises(InputError, match=r"not the weights of .*config\.yaml: encoder"):
        load_model(folder)


def test_a_file_of_the_folder_that_was_changed_is_named(folder: Path) -> None:
    model = folder / "model"
    for name, old, new in [
        ("config.yaml", "hop_ms: 10.0", "hop_ms: 11.0"),
        ("tokenizer.json", "acmn", "camn"),
    ]:
        text = (model / name).read_text()
        assert old in text
        (model / name).write_text(text.replace(old, new))
        with pytest.raises(InputError, match=f"{name}: damaged or changed: its SHA-256"):
            load_model(folder)
        (model / name).write_text(text)
    load_model(folder)


def test_a_folder_without_sums_is_read(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    expected = load_model(folder).net.state_dict()
    save_file(load_file(path), path)  # as before there were sums
    text = (folder / "model" / "config.yaml").read_text()
    (folder / "model" / "config.yaml").write_text(text.replace("seed: 1", "seed: 2"))
    torch.testing.assert_close(load_model(folder).net.state_dict(), expected, rtol=0, atol=0)


def parts_of_safetensors(header: dict[str, Any], num_bytes: int = 0) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        (1 << 63).to_bytes(8, "little") + b"{}",
        (1 << 24).to_bytes(8, "little") + b" " * 100,
        (5).to_bytes(8, "little") + b"[[[[[",
        (2).to_bytes(8, "little") + b"[]",
        parts_of_safetensors({"x": 3}),
        parts_of_safetensors(
            {"x": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 4]}}, 4
        ),
        parts_of_safetensors({"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}, 8),
        parts_of_safetensors({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}, 4),
        parts_of_safetensors({"x": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 4]}}, 4),
        parts_of_safetensors({"__metadata__": {"sha256": "tensors:abc"}}),
        parts_of_safetensors({"__metadata__": [1]}),
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        # whose product takes minutes
        parts_of_safetensors(
            {"x": {"dtype": "F32", "shape": [9] * 2_000_000, "data_offsets": [0, 4]}}, 4
        ),
    ],
)
def test_a_damaged_header_is_one_line(folder: Path, content: bytes) -> None:
    (folder / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def loaded_or_refused(folder: Path) -> tuple[torch.Tensor, str] | None:
    """Return what a model makes of some sound, and its alphabet; None where it is refused."""
    message = ""
    try:
        model = load_model(folder)
    except InputError as error:
        message = str(error)
    if message:
        assert "\n" not in message
        return None
    generator = torch.Generator().manual_seed(0)
    wave_bn = 0.1 * torch.randn(1, 4000, generator=generator)
    with torch.inference_mode():
        return model.net(wave_bn, torch.tensor([4000]))[0], "".join(model.tokenizer.pieces)


@pytest.mark.parametrize("kind", ["char", "bpe"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "tokenizer"])
def test_one_flipped_bit_is_an_error_or_changes_nothing(
    tmp_path: Path, kind: str, name: str
) -> None:
    cfg = small_config(f"tokenizer.kind={kind}", "tokenizer.vocab_size=20", "encoder.num_layers=1")
    tokenizer = train_tokenizer(["a man can see the sea", "she ran in"], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "m", net.state_dict(), cfg, tokenizer)
    expected = loaded_or_refused(tmp_path / "m")
    assert expected is not None
    path = tokenizer_file(tmp_path / "m") if name == "tokenizer" else tmp_path / "m" / name
    content = path.read_bytes()
    rng = random.Random(f"{kind} {name}")
    early = range(min(len(content), 2600))  # the header of the weights
    places = [*rng.choices(early, k=20), *(rng.randrange(len(content)) for _ in range(10))]
    num_refused = 0
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        found = loaded_or_refused(tmp_path / "m")
        num_refused += found is None
        if found is not None:
            assert torch.equal(found[0], expected[0]), place
            assert found[1] == expected[1], place
    assert num_refused > len(places) // 2


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
def test_a_kill_at_any_rename_leaves_a_complete_model(
    folder: Path, nth: int, can_exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renames are counted by Python's audit events, and killed before they are made."""
    if not can_exchange:  # as on NFS

        def refuse(first: Path, second: Path) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(model_folder, "exchange", refuse)
    old = load_model(folder)
    new = {name: value + 1 for name, value in old.net.state_dict().items()}
    pid = os.fork()
    if pid == 0:
        seen = 0

        def count(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            if event == "os.rename":
                seen += 1
                if seen == nth:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        save_model(folder / "model", new, old.config, old.tokenizer)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    found = load_model(folder).net.heads["ctc"].linear.bias
    if os.waitstatus_to_exitcode(status) == 0:
        assert torch.equal(found, new["heads.ctc.linear.bias"])
    else:
        assert any(
            torch.equal(found, one)
            for one in (old.net.heads["ctc"].linear.bias, new["heads.ctc.linear.bias"])
        )
    monkeypatch.undo()
    save_model(folder / "model", new, old.config, old.tokenizer)
    assert torch.equal(
        load_model(folder).net.heads["ctc"].linear.bias, new["heads.ctc.linear.bias"]
    )


def test_a_model_replaces_another_without_a_gap(folder: Path) -> None:
    """Whoever looks while a model is replaced again and again finds one."""
    source = folder / "model"
    pid = os.fork()
    if pid == 0:
        for _ in range(500):
            with model_folder.new_folder(source, replace=True) as stage:
                (stage / "config.yaml").touch()
        os._exit(0)
    num_looks = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        for _ in range(200):
            num_looks += 1
            assert os.path.isfile(source / "config.yaml")
    assert num_looks > 200


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_tensor_that_is_not_finite_is_named(value: float) -> None:
    net = Recogniser(small_config(), vocab_size=7)
    with torch.no_grad():
        net.norm.mean_f.fill_(3e38)  # whose sum overflows
        check_finite(net, Path("folder"))
        net.heads["ctc"].linear.weight[3, 5] = value
    with pytest.raises(InputError, match=r"^folder: damaged weights: heads\.ctc\.linear\.weight "):
        check_finite(net, Path("folder"))
