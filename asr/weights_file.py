"""Safetensors files with SHA-256 sums in their metadata: of their tensors and of the files beside them.

The sums find damage, not malice: who can change the tensors can change the sums. A file without sums
is read as it is.

A matrix may be stored in 8 bits: ``NAME`` of the type I8, of two axes or more, with
``NAME.int8_scale`` of the type F32, one finite number above 0 for each row (the first axis). Its values
are ``NAME[row] * NAME.int8_scale[row]``. Readers get float32 and no scales.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr.errors import InputError
from asr.files import file_hash, open_regular, umask
from asr.weights_sums import KEY, TENSORS, header_bytes, parse_sums, sum_of_tensors

_UNKNOWN_SUM = "0" * 64
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1}
_MOST_AXES = 16
_SCALE = ".int8_scale"
_INT8_MAX = 127
# Smaller tensors stay as they are: all of them together are a few percent of a model.
_MIN_INT8_NUMBERS = 4096


class WeightsFile:
    """The header of a weights file; the tensors are read by ``load``.

    Args:
        rename: from the names in the file to those that are meant.

    Attributes:
        shapes: of the tensors by name, without the scales of those in 8 bits.

    Raises:
        InputError: it cannot be read, its header is damaged, a weight is there by two names, or a matrix
            in 8 bits and its scales do not belong together.
    """

    def __init__(self, path: Path, rename: Callable[[str], str] = str) -> None:
        self.path, self._rename = path, rename
        try:
            with open_regular(path) as file:
                parsed = json.loads(file.read(header_bytes(file)))
                self._sums = parse_sums(parsed.pop("__metadata__", {}))
                shapes = {rename(name): _shape(item) for name, item in parsed.items()}
                types = {rename(name): item["dtype"] for name, item in parsed.items()}
        except OSError as error:
            raise InputError(f"{path}: cannot read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: damaged: its header is none of safetensors: {reason}"
            ) from None
        for name in parsed:
            if rename(name) != name and rename(name) in parsed:
                raise InputError(f"{path}: damaged: {name} and {rename(name)} are one weight")
        self._int8 = [name for name, kind in types.items() if kind == "I8"]
        if problem := _int8_problem(shapes, types):
            raise InputError(f"{path}: damaged: {problem}")
        self.shapes = {name: shape for name, shape in shapes.items() if not _is_scale(name)}

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
        """Read the tensors; those in 8 bits become float32.

        Raises:
            InputError: the file is damaged, or a scale is no finite number above 0.
        """
        weights = self.load_stored()
        for name in self._int8:
            scale_r = weights.pop(name + _SCALE)
            if not bool(((scale_r > 0) & scale_r.isfinite()).all()):
                raise InputError(
                    f"{self.path}: damaged: {name + _SCALE} must be finite and above 0 everywhere"
                )
            weights[name] = weights[name].float() * _per_row(scale_r, weights[name])
        return weights

    def load_stored(self) -> dict[str, Tensor]:
        """Read the tensors as they are stored, scales among them.

        Raises:
            InputError: the file is damaged.
        """
        try:
            if self._sums and self._sums.get(TENSORS) != sum_of_tensors(self.path):
                raise InputError(
                    f"{self.path}: damaged: the SHA-256 sum of its tensors is not the one in its header"
                )
            return {self._rename(name): value for name, value in load_file(self.path).items()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{self.path}: damaged: {error}") from None


def write_weights(path: Path, weights: dict[str, Tensor], beside: Iterable[Path]) -> None:
    """Write tensors with the sums of themselves and of the files ``beside``, which are complete.

    Raises:
        OSError, SafetensorError: it cannot be written.
        InputError: a file beside it cannot be read.
    """
    sums = [f"{TENSORS}:{_UNKNOWN_SUM}", *(f"{item.name}:{file_hash(item)}" for item in beside)]
    save_file(weights, path, metadata={KEY: " ".join(sums)})
    found = sum_of_tensors(path)
    with path.open("r+b") as file:  # the sum is known only now, and as long as what stands for it
        place = 8 + file.read(header_bytes(file)).index(_UNKNOWN_SUM.encode())
        file.seek(place)
        file.write(found.encode())
        file.flush()
        os.fsync(file.fileno())
    path.chmod(0o666 & ~umask())  # safetensors writes for the owner's eyes only


def int8_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors to store for a model in 8 bits.

    Each row of a large matrix is divided by its scale, its greatest absolute value over 127, and
    rounded to nearest: no value moves by more than half of the scale. Vectors, small tensors and
    matrices that are in 8 bits already stay as they are.
    """
    stored: dict[str, Tensor] = {}
    for name, value in weights.items():
        if not value.is_floating_point() or value.ndim < 2 or value.numel() < _MIN_INT8_NUMBERS:
            stored[name] = value
            continue
        scale_r = value.float().abs().flatten(1).amax(1) / _INT8_MAX
        # rows of zeros, and of numbers whose scale would be subnormal, too coarse to divide by
        scale_r = torch.where(scale_r < torch.finfo(torch.float32).tiny, 1.0, scale_r)
        steps = (value.float() / _per_row(scale_r, value)).round()
        stored[name] = steps.clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)
        stored[name + _SCALE] = scale_r
    return stored


def _is_scale(name: str) -> bool:
    return name.endswith(_SCALE)


def _per_row(scale_r: Tensor, matrix: Tensor) -> Tensor:
    """Give one number per row as many axes as the matrix has."""
    return scale_r.view(-1, *[1] * (matrix.ndim - 1))


def _int8_problem(shapes: Mapping[str, tuple[int, ...]], types: Mapping[str, str]) -> str | None:
    """Say what is wrong with matrices in 8 bits and their scales; None where nothing is."""
    for name, shape in sorted(shapes.items()):
        scale = name + _SCALE
        if _is_scale(name) and types.get(name.removesuffix(_SCALE)) != "I8":
            return f"{name} belongs to no matrix in 8 bits (I8)"
        if types[name] != "I8":
            continue
        if len(shape) < 2:
            return f"{name} of shape {shape} is in 8 bits (I8), which only matrices can be"
        if scale not in shapes:
            return f"{name} is in 8 bits (I8), and {scale} is missing"
        if types[scale] != "F32" or shapes[scale] != shape[:1]:
            return (
                f"{scale} is {types[scale]} of shape {shapes[scale]}, not F32 of shape {shape[:1]}"
            )
    return None


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
