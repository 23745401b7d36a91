"""What decoding leaves behind, read back: ``hypotheses.jsonl`` and ``decode.json`` of one set."""

from __future__ import annotations

import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import InputError

HYPOTHESES = "hypotheses.jsonl"
DECODE = "decode.json"


@dataclass(frozen=True)
class Utterance:
    """One decoded utterance; the texts are normalised, words are separated by white space."""

    id: str
    speaker: str
    duration_s: float
    reference: str
    hypothesis: str
    score: float | None


@dataclass(frozen=True)
class Decoding:
    """How a set was decoded; what an older file does not say is None."""

    set_name: str
    normaliser: str
    search: str | None
    beam: int | None
    num_utterances: int | None
    audio_s: float | None
    wall_s: float | None
    rtf: float | None
    device: str | None
    num_threads: int | None


def read_utterances(folder: Path) -> list[Utterance]:
    """Every utterance of a decoded set, in the file's order.

    Raises:
        InputError: no such folder or file, an empty file, a line that is not an utterance, an id
            that occurs twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    path = folder / HYPOTHESES
    utterances: list[Utterance] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        utterance = _parse_utterance(line, f"{path}, line {number}")
        if utterance.id in seen:
            raise InputError(
                f"{path}, line {number}: id {utterance.id!r} is in line {seen[utterance.id]} too"
            )
        seen[utterance.id] = number
        utterances.append(utterance)
    if not utterances:
        raise InputError(f"{path}: no utterances in it")
    return utterances


def read_decoding(folder: Path) -> Decoding:
    """``decode.json`` of a decoded set.

    Raises:
        InputError: no such file, not JSON, no ``set`` or ``normaliser``, a value of a wrong type.
    """
    path = folder / DECODE
    content = read_json_object(path)
    text = {key: field(content, key, str, str(path)) for key in ("search", "device")}
    number = {key: field(content, key, float, str(path)) for key in ("audio_s", "wall_s", "rtf")}
    count = {
        key: field(content, key, int, str(path))
        for key in ("beam", "num_utterances", "num_threads")
    }
    return Decoding(
        set_name=required(content, "set", str, str(path)),
        normaliser=required(content, "normaliser", str, str(path)),
        **text,
        **number,
        **count,
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: it cannot be read, is not JSON or not an object.
    """
    return _parse_object(_read_text(path), str(path))


def required(content: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """``content[key]``, or InputError where it is missing or not a ``kind``."""
    value = field(content, key, kind, where)
    if value is None:
        raise InputError(f"{where}: no {key!r}")
    return value


def field(content: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """``content.get(key)``, or InputError where it is not a ``kind`` (float takes int)."""
    value = content.get(key)
    if value is None:
        return None
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: {key!r} is {value!r}, expected {_KIND_NAMES[kind]}")
    if isinstance(value, str) and not _encodable(value):
        raise InputError(f"{where}: {key!r} is {value!r}, which is half a character (a surrogate)")
    return value


def _encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


_KIND_NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
}


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp makes files for the owner's eyes only; results are read by others.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot write: {error.strerror}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _parse_utterance(line: str, where: str) -> Utterance:
    content = _parse_object(line, where)
    duration_s = required(content, "duration_s", float, where)
    if not math.isfinite(duration_s) or duration_s < 0:
        raise InputError(f"{where}: 'duration_s' is {duration_s}, expected seconds")
    for key in ("id", "speaker"):
        if not required(content, key, str, where).strip():
            raise InputError(f"{where}: {key!r} is empty")
    return Utterance(
        id=required(content, "id", str, where),
        speaker=required(content, "speaker", str, where),
        duration_s=duration_s,
        reference=required(content, "reference", str, where),
        hypothesis=required(content, "hypothesis", str, where),
        score=field(content, "score", float, where),
    )


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: expected an object {{…}}, found {type(content).__name__}")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
