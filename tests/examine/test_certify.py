"""The certificate holds for models that are sound and fails for each way of being unsound."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sigmoid_attention.dispatch
import torch
from sigmoid_attention import Mask
from torch import Tensor, nn

from asr.cli import main
from asr.config import load
from asr.data.store.manifest import read_cuts, write_cuts
from asr.decode.decode import spread
from asr.errors import InputError
from asr.examine.certify import FAILS, HOLDS, NOT_APPLICABLE, Certificate, certify
from asr.examine.certify_output import certificate_as_json, format_certificate
from asr.model.folder import Model, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.nn.frames import Frames, Memory
from asr.text.tokenizer import train_tokenizer

SMALL = [
    *("encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=16", "encoder.conv_kernel=5"),
    *("encoder.subsampling_channels=4", "attention.num_heads=2", "tokenizer.kind=char"),
    "features.num_mels=20",
]
DECODER = ["decoder.num_layers=2", "decoder.num_heads=2", "decoder.ff_dim=16"]
BOTH = [*DECODER, "model.heads=[ctc,attention]", "decoder.cross_weighting=sigmoid"]
STREAMING = ["encoder.causal=true", "encoder.chunk_sizes=[0, 4]", "encoder.left_chunks=[2]"]


def save(folder: Path, *options: str) -> Path:
    config = load([], [*SMALL, *options])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], config.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(config, tokenizer.vocab_size)
    with torch.no_grad():
        # so that it hears something, though nothing that was said
        if "ctc" in net.heads:
            net.heads["ctc"].linear.weight *= 30
        if "attention" in net.heads:
            net.heads["attention"].decoder.output.weight *= 10
    save_model(folder / "model", net.state_dict(), config, tokenizer)
    return folder


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("streaming"), *STREAMING)


@pytest.fixture(scope="module")
def cuts(tiny_corpus: Path) -> Path:
    return tiny_corpus / "test.cuts.jsonl.gz"


def verdicts(certificate: Certificate) -> dict[str, set[str]]:
    """The different verdicts of each property."""
    found: dict[str, set[str]] = {}
    for line in certificate.lines:
        found.setdefault(line.property, set()).add(line.verdict)
    return found


def test_a_sound_model_is_certified_and_the_file_says_the_same(
    exp: Path, cuts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["certify", str(exp), "--cuts", str(cuts), "--utterances", "3", "--threads", "1"]
    assert main([*words, "--json", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["certified"] is True
    assert "certified: " in printed
    assert "NOT CERTIFIED" not in printed
    assert {line["property"] for line in content["lines"]} == {
        *("padding", "batch", "order", "chunking", "backend")
    }
    for line in content["lines"]:
        assert line["what"] in printed
        if line["verdict"] == HOLDS:
            assert line["texts_equal"] == line["num_texts"] == 3
            assert all(f"{value:.1e}" in printed for value in line["largest"].values())
        else:
            assert line["verdict"] == NOT_APPLICABLE
            assert line["reason"] in printed
    refused = {line["what"].split()[0] for line in content["lines"] if line["reason"]}
    assert refused == {"sdpa", "triton"}
    weights = (exp / "model" / "model.safetensors").read_bytes()
    assert content["weights_sha256"] == hashlib.sha256(weights).hexdigest()


def test_without_chunks_there_is_nothing_to_say_of_chunks(cuts: Path, tmp_path: Path) -> None:
    certificate = certify(load_model(save(tmp_path, "attention.weighting=softmax")), cuts, 2)
    (line,) = [line for line in certificate.lines if line.property == "chunking"]
    assert line.verdict == NOT_APPLICABLE
    assert line.reason == "trained without chunks (encoder.chunk_sizes = [])"
    assert line.reason in format_certificate(certificate)
    assert certificate.certified
    whats = {line.what for line in certificate.lines if line.verdict == HOLDS}
    assert {"sdpa against reference, one batch", "blockwise against reference, one batch"} <= whats


def test_a_model_of_the_past_streams_as_it_reads_the_whole_file(cuts: Path, tmp_path: Path) -> None:
    options = ["attention.causal=true", "encoder.causal=true", "attention.window=6"]
    certificate = certify(load_model(save(tmp_path, *options)), cuts, 3)
    (line,) = [line for line in certificate.lines if line.property == "chunking"]
    assert line.verdict == HOLDS
    assert line.what == "a stream against the whole file, chunks of 16 frames, all before"
    assert certificate.certified


@pytest.mark.parametrize("heads", ["ctc,attention", "attention"])
@pytest.mark.parametrize(
    ("weighting", "position", "across"),
    [("softmax", "sinusoidal", "sigmoid"), ("sigmoid", "alibi", "softmax")],
)
def test_a_decoder_is_certified_too(
    cuts: Path, tmp_path: Path, heads: str, weighting: str, position: str, across: str
) -> None:
    own = [f"decoder.weighting={weighting}", f"decoder.position={position}"]
    own += [f"model.heads=[{heads}]", f"decoder.cross_weighting={across}"]
    certificate = certify(load_model(save(tmp_path, *DECODER, *own)), cuts, 3)
    assert certificate.certified
    lines = [line for line in certificate.lines if line.what.startswith("decoder")]
    assert {line.property for line in lines} == {"padding", "batch", "steps", "backend"}
    for line in lines:
        if line.verdict == HOLDS:
            assert line.texts_equal == line.num_texts == (6 if "two" in line.what else 3)
            assert "float64" in line.largest
    # PyTorch's own attention has softmax alone, and there is no GPU for the kernels
    refused = {line.what.split(":")[0]: line.reason for line in lines if "sdpa" in line.what}
    assert [bool(refused[f"decoder's {name}-attention"]) for name in ("self", "cross")] == [
        *(weighting != "softmax", across != "softmax")
    ]


def test_a_decoder_reads_any_tokens_where_a_manifest_has_no_text(
    cuts: Path, tmp_path: Path
) -> None:
    silent = list(read_cuts(cuts))
    for cut in silent:
        cut.supervisions[0].text = ""
    write_cuts(silent, tmp_path / "silent.cuts.jsonl.gz")
    model = load_model(save(tmp_path, *BOTH))
    whole = certify(model, tmp_path / "silent.cuts.jsonl.gz", 2)
    assert whole.certified
    patch = pytest.MonkeyPatch()
    forgotten_key(model, patch)
    try:
        found = verdicts(certify(model, tmp_path / "silent.cuts.jsonl.gz", 2))
    finally:
        patch.undo()
    assert FAILS in found["steps"]


class BatchStatistics(nn.Module):
    """What batch normalisation does in training: mean and deviation of all frames of the batch."""

    def forward(self, x_btd: Tensor) -> Tensor:
        return (x_btd - x_btd.mean((0, 1))) / (x_btd.std((0, 1)) + 1e-3)


def batch_norm(model: Model, patch: pytest.MonkeyPatch) -> None:
    model.net.encoder.layers[0].convolution.branch.depthwise_norm = BatchStatistics()


def padding_leak(model: Model, patch: pytest.MonkeyPatch) -> None:
    """The convolution reads what lies past an utterance's end."""

    def all_exist(_: nn.Module, args: tuple[Tensor, Frames]) -> tuple[Tensor, Frames]:
        x_btd, frames = args
        return x_btd, frames._replace(exist_bt=torch.ones_like(frames.exist_bt))

    model.net.encoder.layers[0].convolution.branch.register_forward_pre_hook(all_exist)


def row_number(model: Model, patch: pytest.MonkeyPatch) -> None:
    def add_row(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        rows_b = torch.arange(len(output), dtype=output.dtype)
        return output + rows_b[:, None, None] * nn.functional.one_hot(
            torch.tensor(1), output.shape[2]
        )

    model.net.heads["ctc"].linear.register_forward_hook(add_row)


def forgotten_key(model: Model, patch: pytest.MonkeyPatch) -> None:
    join = Memory.join

    def forget(
        memory: Memory, owner: nn.Module, name: str, x: Tensor, dim: int, most: int | None
    ) -> Tensor:
        x = join(memory, owner, name, x, dim, most)
        if name != "values":
            return x
        return torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, 1:]], dim=2)

    patch.setattr(Memory, "join", forget)


def rows_not_moved(model: Model, patch: pytest.MonkeyPatch) -> None:
    """What is kept of a hypothesis stays where it was."""
    patch.setattr(Memory, "select", lambda memory, rows_n: None)


def forgotten_place(model: Model, patch: pytest.MonkeyPatch) -> None:
    """Every step is the first one, as far as the sinusoids know."""

    def from_0(_: nn.Module, args: tuple[Tensor, Tensor, int]) -> tuple[Tensor, Tensor, int]:
        return args[0], args[1], 0

    model.net.heads["attention"].decoder.position.register_forward_pre_hook(from_0)


def frames_beyond(model: Model, patch: pytest.MonkeyPatch) -> None:
    """Cross-attention sees frames that do not exist."""

    def all_exist(_: nn.Module, args: tuple[Tensor, Frames]) -> tuple[Tensor, Frames]:
        x_bud, frames = args
        source = frames.source
        lens_b = torch.full_like(source.lens_b, source.frames_bsd.shape[1])
        return x_bud, frames._replace(source=source._replace(lens_b=lens_b))

    layer = model.net.heads["attention"].decoder.layers[0]
    layer.cross_attention.branch.register_forward_pre_hook(all_exist)


def tokens_to_come(model: Model, patch: pytest.MonkeyPatch) -> None:
    """The decoder's self-attention is not causal."""

    def see_all(_: nn.Module, args: tuple[Tensor, Mask, Any]) -> tuple[Tensor, Mask, Any]:
        return args[0], replace(args[1], causal=False), args[2]

    attention = model.net.heads["attention"].decoder.layers[0].self_attention.branch.attention
    attention.register_forward_pre_hook(see_all)


def inexact_backend(model: Model, patch: pytest.MonkeyPatch) -> None:
    call: Callable[..., Tensor] = sigmoid_attention.dispatch.call
    patch.setattr(sigmoid_attention.dispatch, "call", lambda *args: 1.05 * call(*args))


def faint_leak(model: Model, patch: pytest.MonkeyPatch) -> None:
    """Far below what float32 rounds away: a millionth per padded frame."""

    def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + 1e-6 * output.shape[1] * nn.functional.one_hot(
            torch.tensor(1), output.shape[2]
        )

    model.net.heads["ctc"].linear.register_forward_hook(add)


def broken_weight(model: Model, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        model.net.heads["ctc"].linear.bias[0] = math.nan


@pytest.mark.parametrize(
    ("break_it", "options", "properties"),
    [
        (batch_norm, STREAMING, {"padding", "batch", "chunking"}),
        (padding_leak, [], {"padding", "batch"}),  # a causal convolution never reads what follows
        (row_number, STREAMING, {"batch", "order"}),
        (forgotten_key, STREAMING, {"chunking"}),
        (inexact_backend, STREAMING, {"backend"}),
        (faint_leak, STREAMING, {"padding", "batch", "chunking"}),
        (broken_weight, STREAMING, {"padding", "batch", "order", "chunking", "backend"}),
        (forgotten_key, BOTH, {"steps"}),
        (rows_not_moved, BOTH, {"steps"}),
        (forgotten_place, BOTH, {"steps"}),
        (frames_beyond, BOTH, {"padding", "batch", "steps"}),
        (tokens_to_come, BOTH, {"padding", "batch", "steps"}),
        (inexact_backend, BOTH, {"backend"}),
    ],
)
def test_an_unsound_model_fails_and_the_property_is_named(
    break_it: Callable[[Model, pytest.MonkeyPatch], None],
    options: list[str],
    properties: set[str],
    cuts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_model(save(tmp_path, *options))
    break_it(model, monkeypatch)
    certificate = certify(model, cuts, 2)
    found = verdicts(certificate)
    assert {name for name, words in found.items() if FAILS in words} == properties
    assert not certificate.certified
    assert "NOT CERTIFIED" in format_certificate(certificate)
    content = json.dumps(certificate_as_json(certificate), allow_nan=False)
    assert '"certified": false' in content
    if break_it is faint_leak:
        failed = [line for line in certificate.lines if line.verdict == FAILS]
        assert all(line.largest["float32"] < 1e-3 for line in failed)
        assert all(line.texts_equal == line.num_texts for line in failed)


def test_the_command_fails_with_the_model(
    exp: Path, cuts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inexact_backend(load_model(exp), monkeypatch)
    words = ["certify", str(exp), "--cuts", str(cuts), "--utterances", "2", "--threads", "1"]
    assert main([*words, "--json", str(tmp_path / "c.json")]) == 1
    assert json.loads((tmp_path / "c.json").read_text())["certified"] is False


def test_utterances_are_spread_over_the_durations() -> None:
    durations_s = np.array([5.0, 1.0, 4.0, 2.0, 3.0])
    assert spread(durations_s, 3) == [0, 1, 4]
    assert spread(durations_s, 9) == [0, 1, 2, 3, 4]


def test_one_utterance_is_too_few(exp: Path, cuts: Path, tmp_path: Path) -> None:
    write_cuts(list(read_cuts(cuts))[:1], tmp_path / "one.cuts.jsonl.gz")
    with pytest.raises(InputError, match="at least two utterances"):
        certify(load_model(exp), tmp_path / "one.cuts.jsonl.gz")
    with pytest.raises(SystemExit):
        main(["certify", str(exp), "--cuts", str(cuts), "--utterances", "1"])
