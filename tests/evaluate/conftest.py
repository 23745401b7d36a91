"""Shared by the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_experiments import write_decoded, write_experiment
from made_models import decode, write_run

from asr.data.manifest import read_cuts, write_cuts


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two systems on one set of twelve speakers."""
    folders = []
    for seed, (name, weighting, rate) in enumerate(
        [("base", "softmax", 0.2), ("new", "sigmoid", 0.1)]
    ):
        exp = write_experiment(tmp_path / name, weighting=weighting, dirty=name == "new", seed=seed)
        write_decoded(exp, "test", rate, seed=seed)
        folders.append(exp)
    return folders


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
