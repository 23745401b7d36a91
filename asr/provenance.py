"""Where a result came from: commit, versions, machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

VERSIONED = ("sigmoid-asr", "torch", "torchaudio", "triton", "numpy", "lhotse", "sentencepiece")
STEERING = ("OMP_", "MKL_", "CUDA_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "SLURM_JOB_ID")


HERE = Path(__file__).resolve().parent


def commit(folder: Path = HERE) -> tuple[str, bool]:
    """(short commit of this package's checkout, whether tracked files differ from it);
    ("unknown", False) outside a checkout, or in one without a commit."""
    if not _in_checkout(folder):
        return "unknown", False
    head = _git(folder, "rev-parse", "--short=10", "HEAD")
    if head.returncode != 0:  # nothing is committed yet
        return "unknown", False
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no").stdout.strip()
    return head.stdout.strip(), bool(changes)


def uncommitted(folder: Path = HERE) -> str:
    """What tracked files of this package's checkout have that the commit has not, as a diff."""
    return _git(folder, "diff", "HEAD").stdout if _in_checkout(folder) else ""


def _in_checkout(folder: Path) -> bool:
    """Whether git knows this very folder: a package that is installed into an environment may lie in
    somebody else's checkout."""
    try:
        return bool(_git(folder, "ls-files", ".").stdout)
    except OSError:  # no git
        return False


def environment() -> dict[str, Any]:
    """The machine, and the environment variables that steer computing; no others, for they may hold
    secrets."""
    return {
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "cuda_devices": [
            torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())
        ],
        "variables": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith(STEERING)
        },
    }


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
