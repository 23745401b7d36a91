"""docs/adding-a-variant.md holds a change to this tree: it must apply, and do what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-variant.md"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the tree with the page's change in it."""
    for name in ("asr", "kernels", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    change = PAGE.read_text(encoding="utf-8").split("```diff\n")[1].split("```")[0]
    patch = ["patch", "--strip=1", "--fuzz=0", "--directory", str(tmp_path)]
    if shutil.which("patch") is None:
        pytest.skip("the program `patch` is not installed")
    said = subprocess.run(patch, input=change, text=True, check=True, capture_output=True).stdout
    assert "offset" not in said, said  # line numbers are right
    return tmp_path


def run(tree: Path, *command: str) -> str:
    path = os.pathsep.join([str(tree), str(tree / "kernels")])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_change_applies_in_four_places_and_the_word_is_known(tree: Path) -> None:
    changed = PAGE.read_text(encoding="utf-8").count("\n+++ ")
    assert changed == 4
    config = run(tree, "asr.cli", "config", "attention.weighting=cosine")
    assert "attention.weighting = 'cosine'" in config


@pytest.mark.slow
def test_the_changed_tree_passes_its_tests(tree: Path) -> None:
    rows = ["tests/kernels/test_backends.py", "tests/test_variants.py", "-k", "cosine"]
    said = run(tree, "pytest", "-q", "-p", "no:cacheprovider", *rows)
    assert "passed" in said
    assert "failed" not in said
