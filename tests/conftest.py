"""Shared by all tests. One thread: on tiny problems waiting for another thread costs more."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import sigmoid_attention
import torch
from compiled_files import damaged_bytecode
from made_models import decode, decode_joined, mishear, write_run
from process_settings import process_settings

import asr
from asr.data.corpora.synthetic.corpus import prepare_synthetic
from asr.data.store.manifest import read_cuts, write_cuts

torch.set_num_threads(1)

# Started by a shell as `command &` they would ignore Ctrl-C, and so would every program they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SETTINGS = process_settings()


@pytest.fixture(autouse=True)
def leave_the_process_as_it_was() -> Iterator[None]:
    """A test that changes a setting of PyTorch for those after it fails itself, not they."""
    yield
    assert process_settings() == SETTINGS


@pytest.fixture(scope="session", autouse=True)
def leave_the_packages_as_they_were() -> Iterator[None]:
    """No test may damage the tree that it tests: whoever comes next could not import it."""
    yield
    packages = [Path(module.__file__).parent for module in (asr, sigmoid_attention)]
    tests = [Path(__file__).parent, Path(__file__).parents[1] / "kernels" / "tests"]
    damaged = [str(path) for path in damaged_bytecode([*packages, *tests])]
    assert not damaged, f"truncated by a test, delete them: {damaged}"


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute and a half of synthetic speech: ``train``, ``dev`` and ``test`` manifests."""
    out = tmp_path_factory.mktemp("tiny")
    prepare_synthetic(out, hours=0.025, seed=3, num_jobs=1, num_dev=4, num_test=6)
    return out


@pytest.fixture(scope="session")
def three_speakers(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """Six utterances, two of each speaker: 2.5 s alone, 5.1 s joined on average."""
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
    for number, cut in enumerate(cuts):
        cut.supervisions[0].speaker = f"s{number // 2}"
    path = tmp_path_factory.mktemp("speakers") / "test.cuts.jsonl.gz"
    write_cuts(cuts, path)
    return path


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory, three_speakers: Path) -> list[Path]:
    """Two weightings x two positions x two seeds."""
    folder = tmp_path_factory.mktemp("grid")
    experiments = [
        write_run(folder, weighting, position, seed)
        for seed in (1, 2)
        for position in ("none", "relative")
        for weighting in ("softmax", "sigmoid")
    ]
    for exp in experiments:
        decode(exp, three_speakers, exp / "decode" / "test")
    return experiments


@pytest.fixture(scope="session")
def long_grid(
    tmp_path_factory: pytest.TempPathFactory, grid: list[Path], three_speakers: Path
) -> list[Path]:
    """The same, decoded on joined utterances too, of which there are two durations."""
    folder = tmp_path_factory.mktemp("long")
    experiments = [Path(shutil.copytree(exp, folder / exp.name)) for exp in grid]
    decode_joined(experiments, three_speakers, [1.0, 60.0])
    for exp in experiments:
        for length_s in (1, 60):
            out = exp / "decode" / f"test-{length_s}s"
            mishear(out, f"{exp.name} {length_s}")
    return experiments
