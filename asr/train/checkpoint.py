"""Training checkpoints: complete or absent, the newest found by itself, the best kept.

``EXP/checkpoints/epoch-0007.pt`` holds all that training needs to go on after epoch 7. It is read with
``weights_only=True``; what is shared with others is the model folder, not this.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr.errors import InputError

_NAME = re.compile(r"epoch-(\d+)\.pt")


def checkpoint_path(folder: Path, epoch: int) -> Path:
    """Where the state after ``epoch`` finished epochs lies."""
    return folder / f"epoch-{epoch:04d}.pt"


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Writes beside, flushes to the disk, then renames: a kill leaves the old file or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, epoch)
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return path


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Complete checkpoints by epoch, oldest first."""
    found = {}
    for path in sorted(folder.glob("epoch-*.pt")):
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state ``save_checkpoint`` wrote.

    Raises:
        InputError: damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: damaged checkpoint: {str(error).splitlines()[0]}") from None


def choose_epochs(wers: dict[int, float], count: int, what: str) -> list[int]:
    """The epochs whose weights are averaged: ``count`` best by dev WER (the later one of equals), or
    ``count`` last."""
    epochs = sorted(wers)
    if what == "best":
        epochs = sorted(epochs, key=lambda epoch: (-wers[epoch], epoch))
    return sorted(epochs[-count:])


def remove_others(folder: Path, keep: Sequence[int]) -> None:
    """Deletes every checkpoint but these."""
    for epoch, path in list_checkpoints(folder).items():
        if epoch not in keep:
            path.unlink()


def average_weights(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Mean of the checkpoints' weights, summed in float64."""
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for path in paths:
        for name, value in load_checkpoint(path)["model"].items():
            kinds[name] = value.dtype
            total[name] = total[name] + value.double() if name in total else value.double()
    return {name: (value / len(paths)).to(kinds[name]) for name, value in total.items()}
