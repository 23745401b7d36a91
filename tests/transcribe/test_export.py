"""ONNX Runtime gives what PyTorch gives; fewer bits give nearly that."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr import config
from asr.cli import main
from asr.config import FeatureConfig
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.nn.features.kaldi import ConvolutionFbank, Fbank
from asr.text.tokenizer import train_tokenizer
from asr.transcribe.onnx import metadata
from asr.transcribe.precision import Int8Linear

RATE = 16000


ENCODERS = [
    ["encoder.kind=transformer"],
    ["encoder.kind=ebranchformer"],
    ["encoder.kind=ebranchformer", "encoder.causal=true", "encoder.norm=post"],
    ["encoder.causal=true", "encoder.chunk_sizes=[8]", "encoder.left_chunks=[4]"],
    ["attention.window=6"],
    ["attention.window=9", "attention.causal=true", "encoder.causal=true"],
]
EXPORTED = [
    (weighting, position, [])
    for weighting in ("sigmoid", "softmax")
    for position in ("alibi", "rope", "relative", "none", "table")
]
EXPORTED += [("sigmoid", "alibi", encoder) for encoder in ENCODERS]
EXPORTED += [
    ("softmax", "relative", ["attention.window=6"]),
    ("sigmoid", "table", ["attention.causal=true"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "position", "encoder"), EXPORTED)
def test_onnx_runtime_gives_pytorchs_log_probabilities(
    tmp_path: Path, babble: np.ndarray, weighting: str, position: str, encoder: list[str]
) -> None:
    """A batch of another size and other lengths than what was traced, one shorter than a frame."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    words = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    attention = [f"attention.weighting={weighting}", f"attention.position={position}"]
    if weighting == "sigmoid":
        attention += ["attention.count=effective", "attention.shift_exponent=true"]
    cfg = config.load([], words + attention + encoder)
    tokenizer = train_tokenizer(["the quick brown fox"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    path = tmp_path / "new" / "model.onnx"
    assert main(["export", "--model", str(tmp_path), "--out", str(path)]) == 0
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)

    lens_b = torch.tensor([5 * RATE + 1, 399, 3 * RATE, RATE, 70_000])
    wave_bn = torch.from_numpy(babble[: 25 * RATE + 5].reshape(5, -1).copy())
    found_btv, found_b = session.run(None, {"wave": wave_bn.numpy(), "wave_lens": lens_b.numpy()})
    with torch.inference_mode():
        expected_btv, expected_b = load_model(tmp_path).net(wave_bn, lens_b)
    np.testing.assert_array_equal(found_b, expected_b.numpy())
    for found_tv, expected_tv, num_frames in zip(
        found_btv, expected_btv.numpy(), found_b, strict=True
    ):
        np.testing.assert_allclose(found_tv[:num_frames], expected_tv[:num_frames], atol=2e-3)


@pytest.mark.slow
def test_a_file_without_the_decoder_is_said_to_be_so(
    tmp_path: Path, babble: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its log-probabilities are those of the CTC head, though the decoder is the first one."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    words = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    words += ["model.heads=[attention,ctc]", "decoder.num_layers=1", "decoder.ff_dim=32"]
    cfg = config.load([], words)
    tokenizer = train_tokenizer(["the quick brown fox"], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    path = tmp_path / "model.onnx"
    assert main(["export", "--model", str(tmp_path), "--out", str(path)]) == 0
    assert capsys.readouterr().out.endswith(" MB, without the attention head\n")
    session = onnxruntime.InferenceSession(str(path))
    wave_bn, lens_b = babble[None, : 2 * RATE].copy(), np.array([2 * RATE])
    found_btv, _ = session.run(None, {"wave": wave_bn, "wave_lens": lens_b})
    with torch.inference_mode():
        model = load_model(tmp_path).net
        expected_btv, _ = model(torch.from_numpy(wave_bn), torch.tensor([2 * RATE]), head="ctc")
    np.testing.assert_allclose(found_btv[:, : expected_btv.shape[1]], expected_btv, atol=2e-3)


def test_a_model_with_the_decoder_alone_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    cfg = config.load([], ["model.heads=[attention]", "tokenizer.kind=char"])
    tokenizer = train_tokenizer(["the quick brown fox"], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    assert main(["export", "--model", str(tmp_path), "--out", str(tmp_path / "x.onnx")]) == 2
    assert (
        "this model has no ctc head: choose one of its heads, attention" in capsys.readouterr().err
    )
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
def test_onnx_runtime_writes_the_same_texts(exp: Path, tmp_path: Path, babble: np.ndarray) -> None:
    """A hundred utterances, each alone, from 50 ms to 8 s, with their words' times, from nothing but
    the file. Where two tokens tie to 1e-5 rounding decides, and neither text is wrong."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert main(["export", "--model", str(exp), "--out", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path))
    facts = session.get_modelmeta().custom_metadata_map
    pieces, rate = json.loads(facts["tokens"]), int(facts["sample_rate"])
    shift_s, frame_s = float(facts["word_start_shift_s"]), float(facts["seconds_per_frame"])
    transcriber = asr.load(exp, "cpu")
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(100):
        start = int(rng.integers(0, 50 * RATE))
        wave_n = babble[start : start + int(rng.integers(RATE // 20, 8 * RATE))]
        found = session.run(None, {"wave": wave_n[None], "wave_lens": np.array([len(wave_n)])})
        log_probs_tv = found[0][0, : found[1][0]]
        second_t, first_t = np.sort(log_probs_tv, axis=1)[:, -2:].T
        if (first_t - second_t).min(initial=1.0) < 1e-5:
            continue
        path_t = log_probs_tv.argmax(1).tolist()
        text, starts_s, frame = "", [], 0
        for token, run in itertools.groupby(path_t):
            if token != int(facts["blank"]):
                if pieces[token] != "▁" and text[-1:] in ("", "▁"):
                    starts_s.append(max(0.0, frame * frame_s + shift_s))
                text += pieces[token]
            frame += len(list(run))
        transcript = transcriber.transcribe(wave_n, rate)
        assert " ".join(text.replace("▁", " ").split()) == transcript.text
        assert [word.start_s for word in transcript.words] == pytest.approx(starts_s)
        texts.append(text)
    assert len(texts) >= 90
    assert len(set(texts)) > 50


@pytest.mark.parametrize("kind", ["char", "bpe", "unigram"])
def test_metadata_spells_what_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    words = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32"]
    cfg = config.load([], [*words, f"tokenizer.kind={kind}", "tokenizer.vocab_size=31"])
    text = "the quick brown fox jumps over the lazy dog, and the fox"
    tokenizer = train_tokenizer([text], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "mine" / "model", net.state_dict(), cfg, tokenizer)
    facts = metadata(load_model(tmp_path / "mine"), tmp_path / "mine")
    pieces = json.loads(facts["tokens"])
    tokens = [int(facts["blank"]), *tokenizer.encode(text + " é"), 1]
    spelled = "".join(pieces[token] for token in tokens).replace("▁", " ")
    assert spelled.split() == tokenizer.decode(tokens[1:]).split()
    assert spelled.split()[:-1] == text.split()
    weights = (tmp_path / "mine/model/model.safetensors").read_bytes()
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert (facts["model"], facts["sample_rate"]) == ("mine", "16000")
    assert float(facts["seconds_per_frame"]) == 0.04
    assert facts["normaliser"] == "lowercase-apostrophe"
    assert "commit" not in facts
    (tmp_path / "mine" / "run.json").write_text('{"commit": "0123456789"}')
    again = metadata(load_model(tmp_path / "mine"), tmp_path / "mine")
    assert again == {**facts, "commit": "0123456789"}


def test_a_front_end_that_needs_whole_utterances_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    cfg = config.load([], ["features.kind=whisper", "tokenizer.kind=char"])
    tokenizer = train_tokenizer(["the quick brown fox"], cfg.tokenizer)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(tmp_path / "model", net.state_dict(), cfg, tokenizer)
    assert main(["export", "--model", str(tmp_path), "--out", str(tmp_path / "x.onnx")]) == 2
    error = "asr: error: features.kind = whisper: not exported; train with kaldi\n"
    assert capsys.readouterr().err == error
    assert not (tmp_path / "x.onnx").exists()


def test_features_by_convolution_are_those_of_the_filterbank(babble: np.ndarray) -> None:
    fbank = Fbank(FeatureConfig())
    wave_bn = torch.from_numpy(babble[: 4 * RATE].reshape(2, -1).copy())
    lens_b = torch.tensor([2 * RATE, 20_000])
    expected_btf, expected_b = fbank(wave_bn, lens_b)
    found_btf, found_b = ConvolutionFbank(fbank)(wave_bn, lens_b)
    assert torch.equal(found_b, expected_b)
    torch.testing.assert_close(found_btf, expected_btf, atol=1e-3, rtol=1e-4)
    with pytest.raises(InputError, match="snip_edges"):
        ConvolutionFbank(Fbank(FeatureConfig(snip_edges=False)))


def test_int8_linear_is_near_float() -> None:
    """The error of 8-bit weights and 7-bit inputs, bounded by their step sizes."""
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 48), torch.randn(3, 50, 64)
    found, expected = Int8Linear(linear)(x), linear(x)
    assert found.shape == expected.shape
    error = (found - expected).abs().max()
    assert 0 < error < 0.03 * expected.abs().max()


def test_precisions_on_a_cpu(exp: Path, babble: np.ndarray) -> None:
    speech = babble[: 5 * RATE]
    full = asr.load(exp, "cpu").transcribe(speech, RATE)
    int8 = asr.load(exp, "cpu", precision="int8")
    assert any(isinstance(module, Int8Linear) for module in int8.model.net.modules())
    assert int8.transcribe(speech, RATE).duration_s == full.duration_s
    with pytest.raises(InputError, match="bf16 runs on cuda, the device is cpu"):
        asr.load(exp, "cpu", precision="bf16")
    with pytest.raises(InputError, match="choose one of fp32, int8, bf16"):
        asr.load(exp, "cpu", precision="fp8")
