"""SHA-256 sums in the headers of weights files; they are read without PyTorch."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from asr.errors import InputError
from asr.files import file_hash, open_regular

MAX_HEADER_BYTES = 1 << 24
KEY, TENSORS = "sha256", "tensors"
_SUMS = re.compile(r"[^ :]+:[0-9a-f]{64}( [^ :]+:[0-9a-f]{64})*")
_BLOCK_BYTES = 1 << 20


def weights_sum(path: Path) -> str:
    """SHA-256 of a file's tensors as its header has it, which is soon read; else of the whole file.

    Raises:
        InputError: it cannot be read, or its header is damaged.
    """
    try:
        with open_regular(path) as file:
            header = json.loads(file.read(header_bytes(file)))
            return parse_sums(header.get("__metadata__", {})).get(TENSORS) or file_hash(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{path}: damaged: its header is none of safetensors") from None


def header_bytes(file: BinaryIO) -> int:
    """Read the length of the header; the file then stands at its beginning."""
    num_bytes = int.from_bytes(file.read(8), "little")
    if not 2 <= num_bytes <= min(MAX_HEADER_BYTES, os.fstat(file.fileno()).st_size - 8):
        raise ValueError(f"its length is {num_bytes}")
    return num_bytes


def parse_sums(metadata: Mapping[str, str]) -> dict[str, str]:
    """Read the sums in the metadata of a header; ValueError where they are damaged."""
    text = metadata.get(KEY)
    if text is None:
        return {}
    if not _SUMS.fullmatch(text):
        raise ValueError("its sums are damaged")
    return dict(item.split(":") for item in text.split(" "))


def sum_of_tensors(path: Path) -> str:
    """SHA-256 of what follows the header."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        file.seek(8 + header_bytes(file))
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
