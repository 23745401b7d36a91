"""Safetensors files with SHA-256 sums in their metadata: of their tensors and of the files beside them.

The sums find damage, not malice: who can change the tensors can change the sums. A file without sums
is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.errors import InputError
from asr.files import file_hash, open_regular, umask

MAX_HEADER_BYTES = 1 << 24
_KEY, _TENSORS = "sha256", "tensors"
_UNKNOWN_SUM = "0" * 64
_SUMS = re.compile(r"[^ :]+:[0-9a-f]{64}( [^ :]+:[0-9a-f]{64})*")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_BLOCK_BYTES = 1 << 20
_MOST_AXES = 16


class WeightsFile:
    """The header of a weights file; the tensors are read by ``load``.

    Attributes:
        shapes: of the tensors by name.

    Raises:
        InputError: it cannot be read, or its header is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_regular(path) as file:
                parsed = json.loads(file.read(_header_bytes(file)))
                self._sums = _parse_sums(parsed.pop("__metadata__", {}))
                self.shapes = {name: _shape(item) for name, item in parsed.items()}
        except OSError as error:
            raise InputError(f"{path}: cannot read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: damaged: its header is none of safetensors: {reason}"
            ) from None

    def check_shapes(self, expected: Mapping[str, Sequence[int]], where: Path) -> None:
        """Compare names and shapes with those that the configuration ``where`` implies.

        Raises:
            InputError: names the first tensor that differs.
        """
        wanted = {name: tuple(shape) for name, shape in expected.items()}
        for name in sorted(wanted.keys() | self.shapes.keys()):
            if wanted.get(name) != self.shapes.get(name):
                here, there = (
                    "missing" if shape is None else f"of shape {shape}"
                    for shape in (self.shapes.get(name), wanted.get(name))
                )
                raise InputError(
                    f"{self.path}: not the weights of {where}: {name} is {here} here, {there} there"
                )

    def check_beside(self, path: Path) -> None:
        """Compare the sum of a file beside the weights with the one in their header.

        Raises:
            InputError: the file is not the one that was written with these weights.
        """
        if self._sums and self._sums.get(path.name) != file_hash(path):
            raise InputError(
                f"{path}: damaged or changed: its SHA-256 sum is not the one in {self.path.name}"
            )

    def load(self) -> dict[str, Tensor]:
        """Read the tensors.

        Raises:
            InputError: the file is damaged.
        """
        try:
            if self._sums and self._sums.get(_TENSORS) != _sum_of_tensors(self.path):
                raise InputError(
                    f"{self.path}: damaged: the SHA-256 sum of its tensors is not the one in its header"
                )
            return load_file(self.path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.path}: damaged: {error}") from None


def write_weights(path: Path, weights: dict[str, Tensor], beside: Iterable[Path]) -> None:
    """Write tensors with the sums of themselves and of the files ``beside``, which are complete.

    Raises:
        OSError, SafetensorError: it cannot be written.
        InputError: a file beside it cannot be read.
    """
    sums = [f"{_TENSORS}:{_UNKNOWN_SUM}", *(f"{item.name}:{file_hash(item)}" for item in beside)]
    save_file(weights, path, metadata={_KEY: " ".join(sums)})
    found = _sum_of_tensors(path)
    with path.open("r+b") as file:  # the sum is known only now, and as long as what stands for it
        place = 8 + file.read(_header_bytes(file)).index(_UNKNOWN_SUM.encode())
        file.seek(place)
        file.write(found.encode())
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o666 & ~umask())  # safetensors writes for the owner's eyes only


def _header_bytes(file: BinaryIO) -> int:
    """Read the length of the header; the file then stands at its beginning."""
    num_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= num_bytes <= min(MAX_HEADER_BYTES, os.fstat(file.fileno()).st_size - 8):
        raise ValueError(f"its length is {num_bytes}")
    return num_bytes


def _parse_sums(metadata: Mapping[str, str]) -> dict[str, str]:
    text = metadata.get(_KEY)
    if text is None:
        return {}
    if not _SUMS.fullmatch(text):
        raise ValueError("its sums are damaged")
    return dict(item.split(":") for item in text.split(" "))


def _shape(item: dict[str, Any]) -> tuple[int, ...]:
    shape, (first, last) = tuple(item["shape"]), item["data_offsets"]
    if item["dtype"] not in _BYTES:
        raise ValueError(f"weights are of {', '.join(_BYTES)}, not {item['dtype']!r}")
    # their product takes time that grows with the square of how many they are
    if len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor of {len(shape)} axes")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in shape):
        raise ValueError(f"a shape {shape}")
    if last - first != math.prod(shape) * _BYTES[item["dtype"]]:
        raise ValueError(f"{last - first} bytes for a tensor {shape}")
    return shape


def _sum_of_tensors(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as file:
        file.seek(8 + _header_bytes(file))
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
