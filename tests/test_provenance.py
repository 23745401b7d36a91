"""Commit and diff are those of the package's own checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

from asr.provenance import commit, uncommitted


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_diff_of_a_checkout(tmp_path: Path) -> None:
    package, installed = tmp_path / "package", tmp_path / "venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "code.py").write_text("one = 1\n")
    assert commit(package) == ("unknown", False)
    assert uncommitted(package) == ""
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package")
    assert commit(package) == ("unknown", False)  # there is none yet
    assert uncommitted(package) == ""
    git(tmp_path, "commit", "-q", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert commit(package) == (head[:10], False)
    assert uncommitted(package) == ""
    (package / "code.py").write_text("one = 2\n")
    assert commit(package) == (head[:10], True)
    assert "-one = 1\n+one = 2\n" in uncommitted(package)
    # what somebody else's checkout happens to hold, and does not know, has no commit
    assert commit(installed) == ("unknown", False)
    assert uncommitted(installed) == ""
