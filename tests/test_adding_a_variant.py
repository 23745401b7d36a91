"""docs/adding-a-variant.md holds changes to this tree: each must apply, and do what the page says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding-a-variant.md"


def change(section: str) -> str:
    """The diff in the section of the page with this heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return text.split("```diff\n")[1].split("```")[0]


def changed_tree(section: str, tmp_path: Path) -> Path:
    """A copy of the tree with the section's change in it."""
    for name in ("asr", "kernels", "tests", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    patch = ["patch", "--strip=1", "--fuzz=0", "--directory", str(tmp_path)]
    if shutil.which("patch") is None:
        pytest.skip("the program `patch` is not installed")
    done = subprocess.run(patch, input=change(section), text=True, check=True, capture_output=True)
    assert "offset" not in done.stdout, done.stdout  # line numbers are right
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


WEIGHTING = "A weighting: `cosine`"


def test_a_weighting_takes_two_places_and_its_word_is_known(tmp_path: Path) -> None:
    assert change(WEIGHTING).count("\n+++ ") == 2
    tree = changed_tree(WEIGHTING, tmp_path)
    config = run(tree, "asr.cli", "config", "attention.weighting=cosine")
    assert "attention.weighting = 'cosine'" in config


@pytest.mark.slow
def test_a_weighting_passes_its_tests(tmp_path: Path) -> None:
    tree = changed_tree(WEIGHTING, tmp_path)
    rows = ["tests/kernels/test_backends.py", "tests/test_variants.py", "-k", "cosine"]
    said = run(tree, "pytest", "-q", "-p", "no:cacheprovider", *rows)
    assert "passed" in said
    assert "failed" not in said
