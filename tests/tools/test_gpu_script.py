"""tools/gpu.sh as far as a machine without a GPU can tell: what it refuses, what its words are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr import config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu.sh"


def refused(tmp_path: Path, *words: str) -> str:
    run = subprocess.run(
        [SCRIPT, tmp_path / "out", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert run.returncode == 2
    assert not (tmp_path / "out").exists()
    (line,) = run.stderr.splitlines()
    return line


def test_refusals(tmp_path: Path) -> None:
    assert "no stage of the name 'spead'" in refused(tmp_path, "spead")
    assert "speed takes two manifests" in refused(tmp_path, "speed", "one.cuts.jsonl.gz")
    assert "table takes nothing more, got 'x'" in refused(tmp_path, "table", "x")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("stage", ["check", "tune", "table"])
def test_without_a_gpu_nothing_begins(stage: str, tmp_path: Path) -> None:
    assert refused(tmp_path, stage) == "gpu.sh: error: PyTorch sees no CUDA device"


def test_its_settings_are_those_of_the_configuration() -> None:
    text = SCRIPT.read_text()
    overrides = [word for word in re.findall(r"\b(\w+\.\w+=\w+)", text) if "data." not in word]
    assert "train.compile=true" in overrides
    loaded = config.load([ROOT / "recipes/librispeech/conf/960h.yaml"], overrides)
    assert loaded.train.global_batch_s == loaded.train.max_batch_s
    assert loaded.train.compile


def test_its_shapes_are_of_equal_work() -> None:
    shapes = [
        tuple(map(int, words.split(",")))
        for words in re.findall(r"\b(\d+,\d+,\d+,\d+)\b", SCRIPT.read_text())
    ]
    assert len(shapes) == 13
    assert all(b * h * t * d >= 16_000 * 16 * 64 for b, h, t, d in shapes)
    assert {d for _, _, _, d in shapes} == {64, 128}
