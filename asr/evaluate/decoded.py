"""What decoding leaves behind, read back: ``hypotheses.jsonl`` and ``decode.json`` of one set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asr.data.speakers import UNKNOWN_SPEAKER
from asr.errors import InputError
from asr.files import field, finite, parse_object, read_json_object, read_text, required

HYPOTHESES = "hypotheses.jsonl"
DECODE = "decode.json"
# 30 years; a sum of such can be formed.
_MAX_DURATION_S = 1e9


@dataclass(frozen=True)
class Utterance:
    """One decoded utterance; the texts are normalised, words are separated by white space.

    Attributes:
        speaker: ``unknown`` where the file does not say; all those are one speaker's.
    """

    id: str
    speaker: str
    duration_s: float
    reference: str
    hypothesis: str
    score: float | None


@dataclass(frozen=True)
class Decoding:
    """How a set was decoded; what an older file does not say is None.

    Attributes:
        cuts: path of the manifest, absolute (relative in older files).
    """

    set_name: str
    cuts: str | None
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
    for number, line in enumerate(read_text(path).split("\n"), start=1):
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
    text = {key: field(content, key, str, str(path)) for key in ("cuts", "search", "device")}
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


def _parse_utterance(line: str, where: str) -> Utterance:
    content = parse_object(line, where)
    duration_s = required(content, "duration_s", float, where)
    if not 0 <= duration_s < _MAX_DURATION_S:
        raise InputError(f"{where}: 'duration_s' is {duration_s}, expected seconds")
    if not required(content, "id", str, where).strip():
        raise InputError(f"{where}: 'id' is empty")
    speaker = field(content, "speaker", str, where) or ""
    return Utterance(
        id=required(content, "id", str, where),
        speaker=speaker if speaker.strip() else UNKNOWN_SPEAKER,
        duration_s=duration_s,
        reference=required(content, "reference", str, where),
        hypothesis=required(content, "hypothesis", str, where),
        score=field(finite(content), "score", float, where),
    )
