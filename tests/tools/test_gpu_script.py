"""tools/gpu.sh as far as a machine without a GPU can tell: what it refuses, and a rehearsal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "gpu.sh"
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def run(*words: object, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=where,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        timeout=300,
    )


def refused(tmp_path: Path, *words: str) -> str:
    done = run(*words, where=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    return line


def test_refusals(tmp_path: Path) -> None:
    assert "no stage of the name 'chekc'" in refused(tmp_path, "out", "facts", "chekc:30")
    assert "no option --rehears;" in refused(tmp_path, "--rehears", "out", "facts")


@WITHOUT_GPU
def test_without_a_gpu_nothing_begins(tmp_path: Path) -> None:
    assert refused(tmp_path, "out", "check") == "gpu.sh: error: PyTorch sees no CUDA device"


@pytest.mark.slow
@WITHOUT_GPU
def test_a_rehearsal_leaves_the_files_of_its_stages(tmp_path: Path) -> None:
    done = run("--rehearse", "out", "facts:60", "sanitize:200", where=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "failed: none"
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["kernels"] == str(ROOT / "kernels" / "sigmoid_attention")
    assert facts["roof"]["product_tflops"] > 0
    said = (tmp_path / "out" / "sanitize.txt").read_text()
    assert said.count("ran, finite") == 8


@WITHOUT_GPU
def test_a_stage_that_takes_too_long_is_cut_off_and_passed_over(tmp_path: Path) -> None:
    done = run("--rehearse", "out", "sanitize:1", "facts:60", where=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "failed: sanitize(124)"
    assert (tmp_path / "out" / "facts.json").exists()
