"""Shared by the tests of comparisons."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_experiments import write_decoded, write_experiment


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
