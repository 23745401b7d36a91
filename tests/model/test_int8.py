"""Matrices in 8 bits: how far values move, what is stored how, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr import config
from asr.cli import main
from asr.errors import InputError
from asr.model.folder import load_model, save_int8, save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer
from asr.weights_file import WeightsFile, int8_weights, write_weights

TINY = ["encoder.num_layers=1", "encoder.dim=64", "encoder.ff_dim=96", "tokenizer.kind=char"]
MATRIX = "encoder.layers.0.ff_before.branch.widen.weight"
SCALE = f"{MATRIX}.int8_scale"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    cfg = config.load([], TINY)
    tokenizer = train_tokenizer(["a man", "can"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    net.norm.mean_f.fill_(0.5)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    return tmp_path / "model"


@pytest.fixture
def small(model: Path) -> Path:
    save_int8(model, model.parent / "small")
    return model.parent / "small"


def read(folder: Path) -> dict[str, Tensor]:
    return WeightsFile(folder / "model.safetensors").load()


def stored(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write the tensors again after a change, without sums: what is wrong is in the tensors alone."""
    weights = stored(folder)
    change(weights)
    save_file(weights, folder / "model.safetensors")


def test_no_value_moves_by_more_than_half_a_step(model: Path, small: Path) -> None:
    before, after, scales = read(model), read(small), stored(small)
    assert before.keys() == after.keys()
    matrices = [name for name in before if f"{name}.int8_scale" in scales]
    assert MATRIX in matrices
    for name, value in before.items():
        found = after[name]
        assert (found.shape, found.dtype) == (value.shape, torch.float32)
        if name not in matrices:
            assert torch.equal(found, value), name
            continue
        assert scales[name].dtype == torch.int8
        scale_r = scales[f"{name}.int8_scale"]
        assert scale_r.shape == (len(value),)
        largest_r = value.abs().flatten(1).amax(1)
        torch.testing.assert_close(scale_r * 127, largest_r)
        error_r = (found - value).abs().flatten(1).amax(1)
        assert bool((error_r <= scale_r * 0.5001).all()), name


def test_vectors_statistics_and_small_matrices_stay(small: Path) -> None:
    for name, value in stored(small).items():
        if not name.endswith(".int8_scale"):
            assert (value.dtype == torch.int8) == (value.ndim > 1 and value.numel() >= 4096), name


def test_rows_of_zeros_of_tiny_and_of_huge_numbers(tmp_path: Path) -> None:
    rows = [0.0, 1e-45, 1e-38, 1e-20, 1.0, 3e38]
    matrix = torch.linspace(-1, 1, 1024).repeat(len(rows), 1) * torch.tensor(rows)[:, None]
    weights = int8_weights({"x": matrix})
    write_weights(tmp_path / "x.safetensors", weights, [])
    found = WeightsFile(tmp_path / "x.safetensors").load()["x"]
    error_r = (found - matrix).abs().amax(1)
    assert bool(found.isfinite().all())
    assert bool((error_r <= weights["x.int8_scale"] * 0.5001).all())
    assert bool((found[3:].abs().amax(1) > 0).all())


def test_two_loads_are_equal_bit_for_bit_and_a_copy_is_the_same(small: Path) -> None:
    first, second = (load_model(small).net.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    again = small.parent / "again"
    save_int8(small, again)
    names = sorted(path.name for path in small.iterdir())
    assert names == ["config.yaml", "model.safetensors", "tokenizer.json"]
    for name in names:
        assert (again / name).read_bytes() == (small / name).read_bytes()


def test_a_folder_of_floats_reads_as_it_was_written(model: Path) -> None:
    raw = stored(model)
    for found in (read(model), load_model(model).net.state_dict()):
        assert found.keys() == raw.keys()
        assert all(torch.equal(found[name], raw[name]) for name in raw)


def test_outputs_are_nearly_those_of_the_float_model(model: Path, small: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    wave_bn = 0.1 * torch.randn(1, 16000, generator=generator)
    with torch.inference_mode():
        expected, found = (
            load_model(folder).net(wave_bn, torch.tensor([16000]))[0] for folder in (model, small)
        )
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)


def test_a_decoder_is_stored_in_8_bits_and_says_nearly_the_same(tmp_path: Path) -> None:
    own = ["model.heads=[ctc,attention]", "decoder.num_layers=1", "decoder.ff_dim=96"]
    cfg = config.load([], [*TINY, *own, "decoder.cross_weighting=sigmoid"])
    tokenizer = train_tokenizer(["a man", "can"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    save_int8(tmp_path / "model", tmp_path / "small")
    tensors = stored(tmp_path / "small")
    kinds = {
        name.removeprefix("heads.attention.decoder.layers.0."): value.dtype
        for name, value in tensors.items()
        if name.startswith("heads.attention.decoder.layers.0.") and value.ndim > 1
    }
    assert kinds == dict.fromkeys(
        [
            *("self_attention.branch.attention.project_qkv.weight",),
            *("self_attention.branch.attention.project_out.weight",),
            *(f"cross_attention.branch.project_{one}.weight" for one in ("q", "kv", "out")),
            *("ff.branch.widen.weight", "ff.branch.narrow.weight"),
        ],
        torch.int8,
    )
    wave_bn = 0.1 * torch.randn(1, 16000, generator=torch.Generator().manual_seed(0))
    said = (torch.tensor([[1, 2, 3]]), torch.tensor([3]))
    losses = []
    with torch.inference_mode():
        for name in ("model", "small"):
            net = load_model(tmp_path / name).net
            given = net(wave_bn, torch.tensor([16000]), head="attention")
            losses.append(float(net.head("attention").loss_of_frames(*given, *said)))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_the_command_writes_a_folder_that_can_be_shared(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "by-command"
    words = ["export", "--model", str(model), "--format", "int8", "--out", str(out)]
    assert main(words) == 0
    assert re.search(r"written to .*by-command: \d+\.\d MB", capsys.readouterr().out)
    size, before = (folder.joinpath("model.safetensors").stat().st_size for folder in (out, model))
    assert size < 0.6 * before
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("exists already; name another folder or remove it\n")
    assert main(["push", str(out), str(tmp_path / "shared")]) == 0
    assert main(["pull", str(tmp_path / "shared"), "--out", str(tmp_path / "pulled")]) == 0
    first, second = stored(tmp_path / "pulled"), stored(out)
    assert all(torch.equal(first[name], second[name]) for name in second), "still in 8 bits"


def _shorter(weights: dict[str, Tensor]) -> None:
    weights[SCALE] = weights[SCALE][1:].clone()


def _with(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda weights: weights.update({name: change(weights[name])})


def _first(number: float) -> Callable[[Tensor], Tensor]:
    return lambda scale_r: torch.cat([torch.tensor([number]), scale_r[1:]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(SCALE), f"{MATRIX} is in 8 bits (I8), and {SCALE} is missing"),
        (lambda weights: weights.pop(MATRIX), f"{SCALE} belongs to no matrix in 8 bits (I8)"),
        (_with(MATRIX, Tensor.float), f"{SCALE} belongs to no matrix in 8 bits (I8)"),
        (_shorter, f"{SCALE} is F32 of shape (95,), not F32 of shape (96,)"),
        (_with(SCALE, lambda scale_r: scale_r[:, None]), f"{SCALE} is F32 of shape (96, 1), not F32"),
        (_with(SCALE, Tensor.half), f"{SCALE} is F16 of shape (96,), not F32 of shape (96,)"),
        (_with(SCALE, Tensor.char), f"{SCALE} is I8 of shape (96,), not F32 of shape (96,)"),
        (_with("norm.mean_f", Tensor.char), "norm.mean_f of shape (80,) is in 8 bits (I8), which"),
        (_with(SCALE, _first(float("nan"))), f"{SCALE} must be finite and above 0 everywhere"),
        (_with(SCALE, _first(float("inf"))), f"{SCALE} must be finite and above 0 everywhere"),
        (_with(SCALE, _first(0.0)), f"{SCALE} must be finite and above 0 everywhere"),
        (_with(SCALE, _first(-1.0)), f"{SCALE} must be finite and above 0 everywhere"),
        (_with(SCALE, _first(3e38)), f"{MATRIX} holds NaN or"),
        (_with(MATRIX, lambda x: x[:, :-1].contiguous()), "not the weights of"),
        (_with(MATRIX, Tensor.int), "not 'I32'"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_one_line(
    small: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    rewrite(small, change)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_model(small)
    assert "\n" not in str(caught.value)
    assert str(small) in str(caught.value)


def test_a_flipped_bit_of_a_matrix_or_of_a_scale_is_found(small: Path) -> None:
    path = small / "model.safetensors"
    content = path.read_bytes()
    for place in (len(content) - 1, len(content) // 2, len(content) // 4):
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged: the SHA-256 sum of its tensors"):
            load_model(small)


def test_a_model_in_8_bits_is_a_start_for_training(small: Path) -> None:
    from asr.train.initialise import read_start

    start = read_start(small, config.load([], TINY))
    expected = read(small)
    assert start.weights.keys() == expected.keys()
    assert all(torch.equal(start.weights[name], expected[name]) for name in expected)
