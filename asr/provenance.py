"""Where a result came from: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

VERSIONED = ("sigmoid-asr", "torch", "torchaudio", "triton", "numpy", "lhotse", "sentencepiece")


def commit() -> tuple[str, bool]:
    """(short commit of this package's checkout, whether tracked files differ from it);
    ("unknown", False) outside a checkout."""
    folder = Path(__file__).resolve().parent
    try:
        run = _git(folder, "rev-parse", "--short=10", "HEAD")
        if run.returncode != 0:
            return "unknown", False
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no").stdout.strip()
    except OSError:
        return "unknown", False
    return run.stdout.strip(), bool(changes)


def _git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
