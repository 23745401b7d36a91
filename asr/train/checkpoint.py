"""Training checkpoints: complete or absent, the newest found by itself, the best kept.

``EXP/checkpoints/step-00001234.pt`` holds all that training needs to go on after step 1234; sharded
training leaves a folder ``step-00001234.sharded`` instead. What is shared with others is the model
folder, not these: a file is read with ``weights_only=True``, but the index of a sharded checkpoint is
a pickle, as ``torch.distributed.checkpoint`` writes it, and must come from someone you trust.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from asr.errors import InputError
from asr.files import file_hash, read_json_object, write_atomically
from asr.formats import is_old, renamed_in, upgrade_weights
from asr.processes import Processes

_NAME = re.compile(r"step-(\d+)\.(pt|sharded)")
_UNFINISHED = ".tmp"
_OTHER_STATE = "other.pt"
_SUMS = "sha256.json"


@dataclass(frozen=True)
class State:
    """The tensors that training changes.

    average: moving average of the weights by name, empty where there is none.
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]


class Store(ABC):
    """Checkpoints of one run, written and read."""

    def __init__(self, folder: Path, processes: Processes):
        self.folder, self.processes = folder, processes

    @abstractmethod
    def save(self, step: int, state: State, other: dict[str, Any]) -> None:
        """Leaves a complete checkpoint of ``step`` or none. ``other``: whatever else is needed, of
        plain numbers and texts.

        Raises:
            InputError: the folder cannot be written to, or the disk is full.
        """

    @abstractmethod
    def restore(self, step: int, state: State) -> dict[str, Any]:
        """Puts the tensors back in place; returns ``other``.

        Raises:
            InputError: damaged.
        """


class FileStore(Store):
    """One file per checkpoint, written by the first process."""

    def save(self, step: int, state: State, other: dict[str, Any]) -> None:
        if self.processes.first:
            content = {
                "model": state.net.state_dict(),
                "optimizer": state.optimizer.state_dict(),
                "average": state.average,
                "other": other,
            }
            write_file(self.folder, step, content)
        self.processes.wait()

    def restore(self, step: int, state: State) -> dict[str, Any]:
        content = read_file(list_checkpoints(self.folder)[step])
        own = state.net.state_dict()
        model = {
            name: _placed_like(value, own.get(name)) for name, value in content["model"].items()
        }
        state.net.load_state_dict(model)
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        for number, values in content["optimizer"]["state"].items():
            for name, value in values.items():
                values[name] = _placed_like(value, parameters[number])
        state.optimizer.load_state_dict(content["optimizer"])
        for name, value in state.average.items():
            value.copy_(_placed_like(content["average"][name], value))
        return content["other"]


def _placed_like(value: Tensor, own: Tensor | None) -> Tensor:
    """A whole tensor, divided among the processes as this run's own of that shape is."""
    if isinstance(own, DTensor) and own.shape == value.shape:
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value


class ShardedStore(Store):
    """A folder per checkpoint, to which every process writes the part of the weights that it holds.

    Any number of processes can read it back.
    """

    def save(self, step: int, state: State, other: dict[str, Any]) -> None:
        path = self.folder / f"step-{step:08d}.sharded"
        unfinished = path.with_suffix(_UNFINISHED)
        try:
            if self.processes.first:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
            self.processes.wait()
            dcp.save(_sharded(state), checkpoint_id=unfinished)
            if self.processes.first:
                with (unfinished / _OTHER_STATE).open("wb") as file:
                    torch.save(other, file)
                    os.fsync(file.fileno())
            self.processes.wait()
            sums = self._sums(unfinished)
            if self.processes.first:
                write_atomically(unfinished / _SUMS, json.dumps(sums, indent=1) + "\n")
                os.replace(unfinished, path)
                _sync_folder(self.folder)
        except (OSError, RuntimeError, CheckpointException) as error:
            if self.processes.first:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise _cannot_write(path, error) from None
        self.processes.wait()

    def restore(self, step: int, state: State) -> dict[str, Any]:
        path = list_checkpoints(self.folder)[step]
        content = _sharded(state)
        with _reading(path):
            _compare_sums(path, lambda: self._sums(path))
            content = renamed_in(content, old=_is_old(path))
            dcp.load(content, checkpoint_id=path)
            content = renamed_in(content, old=False)
        set_model_state_dict(state.net, content["model"])
        set_optimizer_state_dict(state.net, state.optimizer, content["optimizer"])
        return _load(path / _OTHER_STATE)

    def _sums(self, path: Path) -> dict[str, str]:
        """SHA-256 of each file; every process reads its share of them."""
        rank, size = self.processes.rank, self.processes.size
        parts = self.processes.gather(_sums_of(path, rank, size))
        return {name: digest for part in parts for name, digest in part.items()}


def _is_old(path: Path) -> bool:
    """Tell whether a sharded checkpoint has weights by older names."""
    found = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    return any(is_old(name.partition(".")[2]) for name in found if name.startswith("model."))


def _sums_of(path: Path, rank: int = 0, size: int = 1) -> dict[str, str]:
    names = sorted(file.name for file in path.iterdir() if file.name != _SUMS)
    return {name: file_hash(path / name) for name in names[rank::size]}


def _compare_sums(path: Path, found: Callable[[], dict[str, str]]) -> None:
    """
    Raises:
        ValueError: names the files that are not what was written. Older checkpoints have no sums.
    """
    if not (path / _SUMS).is_file():
        return
    expected, sums = read_json_object(path / _SUMS), found()
    wrong = [name for name in sorted(expected | sums) if expected.get(name) != sums.get(name)]
    if wrong:
        raise ValueError(f"not what was written: {', '.join(wrong)[:200]}")


def restore(folder: Path, step: int, state: State, processes: Processes) -> dict[str, Any]:
    """Read a checkpoint of either kind, whatever this run's own engine writes; see ``Store``."""
    sharded = list_checkpoints(folder)[step].is_dir()
    store = ShardedStore(folder, processes) if sharded else FileStore(folder, processes)
    return store.restore(step, state)


def _sharded(state: State) -> dict[str, Any]:
    # `average` is loaded in place
    return {
        "model": get_model_state_dict(state.net),
        "optimizer": get_optimizer_state_dict(state.net, state.optimizer),
        "average": state.average,
    }


def write_file(folder: Path, step: int, state: dict[str, Any]) -> Path:
    """Write beside, flush to the disk, then rename: a kill leaves the old file or the new one.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    path = folder / f"step-{step:08d}.pt"
    unfinished = path.with_suffix(_UNFINISHED)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        unfinished.unlink(missing_ok=True)
        raise _cannot_write(path, error) from None
    return path


def read_file(path: Path) -> dict[str, Any]:
    """The state ``write_file`` wrote.

    Raises:
        InputError: damaged.
    """
    content = _load(path)
    return content | {part: upgrade_weights(content[part]) for part in ("model", "average")}


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """Complete checkpoints by step, oldest first."""
    found = {}
    for path in folder.glob("step-*"):
        match = _NAME.fullmatch(path.name)
        if match:
            found[int(match.group(1))] = path
    return dict(sorted(found.items()))


def choose_steps(rates: dict[int, float], count: int, what: str) -> list[int]:
    """The validated steps whose weights are averaged: ``count`` of the lowest dev error rates (the later
    one of equals), or ``count`` last."""
    steps = sorted(rates)
    if what == "best":
        steps = sorted(steps, key=lambda step: (-rates[step], step))
    return sorted(steps[-count:])


def remove_others(folder: Path, keep: Sequence[int]) -> None:
    """Deletes every checkpoint but these, and what a kill left unfinished."""
    for step, path in list_checkpoints(folder).items():
        if step in keep:
            continue
        if path.is_dir():
            # first out of the list of complete ones, then piece by piece
            shutil.rmtree(path.replace(path.with_suffix(_UNFINISHED)))
        else:
            path.unlink()
    for path in folder.glob(f"step-*{_UNFINISHED}"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def average_weights(paths: Sequence[Path], own: bool = False) -> dict[str, Tensor]:
    """Mean of the checkpoints' weights, summed in float64; where a checkpoint has a moving average,
    that stands for its weights, unless its ``own`` are asked for."""
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for path in paths:
        for name, value in _weights(path, own).items():
            kinds[name] = value.dtype
            total[name] = total[name] + value.double() if name in total else value.double()
    return {name: (value / len(paths)).to(kinds[name]) for name, value in total.items()}


def _weights(path: Path, own: bool) -> dict[str, Tensor]:
    if not path.is_dir():
        state = read_file(path)
        return state["model"] if own else state["model"] | state["average"]
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
    with _reading(path):
        _compare_sums(path, lambda: _sums_of(path))
        found = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
        for name, item in found.items():
            part, _, key = name.partition(".")
            if part in parts and isinstance(item, dcp.metadata.TensorStorageMetadata):
                parts[part][key] = torch.empty(item.size, dtype=item.properties.dtype)
        dcp.load(parts, checkpoint_id=path, no_dist=True)
    parts = {part: upgrade_weights(weights) for part, weights in parts.items()}
    return parts["model"] if own else parts["model"] | parts["average"]


def _load(path: Path) -> dict[str, Any]:
    with _reading(path):
        # torch.save writes a CRC-32 of each record, and torch.load does not compare it
        with zipfile.ZipFile(path) as records:
            damaged = records.testzip()
        if damaged:
            raise ValueError(f"its record {damaged} is not what was written (CRC-32)")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what damage raises into an InputError: a sharded checkpoint's index is a pickle, so that can
    be anything, and its CheckpointException is no Exception."""
    try:
        yield
    except (Exception, CheckpointException) as error:
        raise InputError(f"{path}: damaged checkpoint: {_one_line(error)}") from None


def _cannot_write(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: cannot write this checkpoint: {_one_line(error)}")


def _one_line(error: BaseException) -> str:
    if isinstance(error, CheckpointException):  # one of each process that failed
        error, _ = next(iter(error.failures.values()))
    lines = str(getattr(error, "strerror", None) or error).splitlines()[:1]
    if not lines or not isinstance(error, OSError | RuntimeError):  # a KeyError's text is but a key
        lines.insert(0, type(error).__name__)
    return ": ".join(lines)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
