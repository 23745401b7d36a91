"""ONNX Runtime gives what PyTorch gives; fewer bits give nearly that."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

import asr
from asr import config
from asr.cli import main
from asr.config import FeatureConfig
from asr.data.features import Fbank
from asr.errors import InputError
from asr.model import Recogniser
from asr.model_folder import load_model, save_model
from asr.text.tokenizer import train_tokenizer
from asr.transcribe.onnx import ConvolutionFbank
from asr.transcribe.precision import Int8Linear

RATE = 16000


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["sigmoid", "softmax"])
@pytest.mark.parametrize("position", ["alibi", "rope", "relative", "none"])
def test_onnx_runtime_gives_pytorchs_log_probabilities(
    tmp_path: Path, babble: np.ndarray, weighting: str, position: str
) -> None:
    """A batch of another size and other lengths than what was traced, one shorter than a frame."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    words = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
    attention = [f"attention.weighting={weighting}", f"attention.position={position}"]
    cfg = config.load([], words + attention)
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
def test_onnx_runtime_writes_the_same_texts(exp: Path, tmp_path: Path, babble: np.ndarray) -> None:
    """A hundred utterances, each alone, from 50 ms to 8 s."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    assert main(["export", "--model", str(exp), "--out", str(path)]) == 0
    session = onnxruntime.InferenceSession(str(path))
    transcriber = asr.load(exp, "cpu")
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(100):
        start = int(rng.integers(0, 50 * RATE))
        wave_n = babble[start : start + int(rng.integers(RATE // 20, 8 * RATE))]
        found = session.run(None, {"wave": wave_n[None], "wave_lens": np.array([len(wave_n)])})
        log_probs_tv = found[0][0, : found[1][0]]
        tokens = [token for token, _ in itertools.groupby(log_probs_tv.argmax(1).tolist()) if token]
        text = " ".join(transcriber.model.tokenizer.decode(tokens).split())
        assert text == transcriber.transcribe(wave_n, RATE).text
        texts.append(text)
    assert len(set(texts)) > 50


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
