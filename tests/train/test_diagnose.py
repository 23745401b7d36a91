"""Looks at attention while training: nothing changes, and the numbers are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr import config
from asr.data.examples import Batch
from asr.model.recogniser import Recogniser
from asr.train.diagnose import diagnose_step
from asr.train.run import train

SETTINGS = [
    *("encoder.num_layers=1", "encoder.dim=16", "encoder.ff_dim=24", "encoder.conv_kernel=5"),
    *("encoder.subsampling_channels=4", "tokenizer.kind=char", "encoder.dropout=0"),
    *("augment.num_freq_masks=0", "augment.num_time_masks=0", "attention.num_heads=2"),
    *("train.epochs=1", "train.global_batch_s=8", "train.max_batch_s=30", "train.num_threads=1"),
    *("train.average_checkpoints=1", "train.log_steps=1"),
]


def run(corpus: Path, exp: Path, *more: str) -> list[dict[str, Any]]:
    data = [f"data.{part}=[{corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    train(config.load([], [*SETTINGS, *data, *more]), exp)
    return [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]


def test_series_and_the_same_bits(tiny_corpus: Path, tmp_path: Path) -> None:
    plain = run(tiny_corpus, tmp_path / "plain")
    looked = run(tiny_corpus, tmp_path / "looked", "train.diagnose_steps=4")
    assert not [one for one in plain if one["kind"] == "diagnose"]
    losses = {one["step"]: one["loss"] for one in looked if one["kind"] == "train"}
    assert losses == {one["step"]: one["loss"] for one in plain if one["kind"] == "train"}
    weights = [
        load_file(tmp_path / name / "model/model.safetensors") for name in ("plain", "looked")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    records = [one for one in looked if one["kind"] == "diagnose"]
    assert [one["step"] for one in records] == list(range(1, len(losses) + 1, 4))
    # steps of four utterances at most, without dropout and augmentation: the very loss of the step
    for record in records:
        assert record["loss"] == pytest.approx(losses[record["step"]], rel=1e-5)
        assert record["overflow"] is None

    events = EventAccumulator(str(tmp_path / "looked" / "tensorboard"))
    events.Reload()
    for name in ("entropy/layer1.head2", "jacobian_norm/layer1", "gradient_norm"):
        points = [(point.step, point.value) for point in events.Scalars(f"diagnose/{name}")]
        expected = [(one["step"], one[name]) for one in records]
        assert points == [(step, pytest.approx(value)) for step, value in expected]


@pytest.mark.slow
def test_compiled_layers_are_looked_into_uncompiled() -> None:
    """A minute or two of compiling."""
    torch.manual_seed(0)
    net = Recogniser(config.load([], SETTINGS), 12)
    wave_bn, ones = 0.1 * torch.randn(2, 16000), torch.ones(2, 3, dtype=torch.int64)
    lens_b, token_lens_b = torch.tensor([16000, 9600]), torch.tensor([1, 1])
    batch = Batch(("", ""), wave_bn, lens_b, ones, token_lens_b, 1.6, ("", ""), ("", ""))
    expected = diagnose_step(net, [batch])
    for layer in net.encoder.layers:
        layer.compile(dynamic=True)
    net.loss(wave_bn, lens_b, ones, token_lens_b).sum().backward()
    assert diagnose_step(net, [batch]) == expected
