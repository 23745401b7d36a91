"""Files that decoding leaves behind, read back: ``hypotheses.jsonl`` and ``decode.json`` of one set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.data.speakers import UNKNOWN_SPEAKER
from asr.errors import InputError
from asr.files import field, finite, parse_object, read_json_object, read_text, required, shown
from asr.run_folder import DecodedFolder

# 30 years; a sum of such can be formed.
_MAX_DURATION_S = 1e9
# What scoring takes goes with pairs of words and of characters: reference times hypothesis. An hour of
# speech has some 12,000 words and 70,000 characters; the largest known set of whole recordings, 120
# hours of them, has about 1e10 pairs of words. At the limits scoring takes some minutes.
_MAX_PAIRS = {"words": 10**9, "characters": 10**11}
_MAX_PAIRS_OF_SET = {"words": 2 * 10**10, "characters": 5 * 10**11}
# Of what a table shows: speakers, names, settings.
_MAX_NAME = 1000
_LIMITS: dict[str, float] = {
    "beam": 1e6,
    "num_utterances": 1e12,
    "num_threads": 1e6,
    "audio_s": 1e12,
    "wall_s": 1e12,
    "rtf": 1e6,
}


@dataclass(frozen=True)
class DecodedUtterance:
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
class JoinedFrom:
    """Origin of a set whose utterances are a speaker's joined to a duration (`asr join --to-s`).

    Attributes:
        of: fingerprint of the manifest that was joined.
        to_s: about how many seconds they were joined to.
    """

    of: str
    to_s: float


@dataclass(frozen=True)
class Decoding:
    """A record of how a set was decoded; what an older file does not say is None.

    Attributes:
        cuts: path of the manifest, absolute (relative in older files).
        head: whose frames were searched; None: the model's first one's.
        joined: None where its utterances are single ones.
        model_sha256: of the model's weights, see ``weights_sum``.
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
    attention_backend: str | None = None
    joined: JoinedFrom | None = None
    head: str | None = None
    model_sha256: str | None = None


def read_decoded(folder: Path) -> tuple[list[DecodedUtterance], Decoding]:
    """Read a decoded set: its utterances, and how they were decoded.

    Raises:
        InputError: see ``read_hypotheses`` and ``read_decoding``; another number of utterances than
            were decoded.
    """
    utterances = read_hypotheses(folder)
    decoding = read_decoding(folder)
    if decoding.num_utterances not in (None, len(utterances)):
        raise InputError(
            f"{folder}: {len(utterances)} utterances, but {decoding.num_utterances} were to be "
            f"decoded; decode the set again"
        )
    return utterances, decoding


def read_hypotheses(folder: Path) -> list[DecodedUtterance]:
    """Every utterance of a decoded set, in the file's order.

    Raises:
        InputError: no such folder or file, an empty file, a line that is not an utterance, an id
            that occurs twice, texts too long to be scored.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    path = DecodedFolder(folder).hypotheses
    utterances: list[DecodedUtterance] = []
    seen: dict[str, int] = {}
    pairs_of_set = dict.fromkeys(_MAX_PAIRS_OF_SET, 0)
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        utterance = _parse_utterance(line, f"{path}, line {number}")
        if utterance.id in seen:
            raise InputError(
                f"{path}, line {number}: id {utterance.id!r} is in line {seen[utterance.id]} too"
            )
        seen[utterance.id] = number
        _add_pairs(pairs_of_set, utterance, f"{path}, line {number}")
        utterances.append(utterance)
    if not utterances:
        raise InputError(f"{path}: no utterances in it")
    return utterances


def read_decoding(folder: Path) -> Decoding:
    """``decode.json`` of a decoded set.

    Raises:
        InputError: no such file, not JSON, no ``set`` or ``normaliser``, a value of a wrong type or
            out of range.
    """
    path = DecodedFolder(folder).decoding
    content, where = read_json_object(path), str(path)
    number = {
        key: bounded_field(content, key, float, where, _LIMITS[key])
        for key in ("audio_s", "wall_s", "rtf")
    }
    count = {
        key: bounded_field(content, key, int, where, _LIMITS[key])
        for key in ("beam", "num_utterances", "num_threads")
    }
    return Decoding(
        set_name=required_name(content, "set", where),
        normaliser=required_name(content, "normaliser", where),
        cuts=field(content, "cuts", str, where),
        search=name_field(content, "search", where),
        head=name_field(content, "head", where),
        device=name_field(content, "device", where),
        attention_backend=name_field(content, "attention_backend", where),
        model_sha256=name_field(content, "model_sha256", where),
        joined=_joined(field(content, "joined", dict, where), f"{where}: 'joined'"),
        **number,
        **count,
    )


def _joined(content: dict[str, Any] | None, where: str) -> JoinedFrom | None:
    if content is None:
        return None
    required(content, "to_s", float, where)
    to_s = bounded_field(content, "to_s", float, where, _MAX_DURATION_S)
    return JoinedFrom(required_name(content, "of", where), to_s)


def bounded_field(content: dict[str, Any], key: str, kind: type, where: str, high: float) -> Any:
    """Look up a number from 0 to ``high``: None where it is missing, InputError for any other."""
    value = field(content, key, kind, where)
    if value is not None and not 0 <= value <= high:
        raise InputError(
            f"{where}: {key!r} is {shown(value)}, expected a number from 0 to {high:.0f}"
        )
    return value


def name_field(content: dict[str, Any], key: str, where: str) -> str | None:
    """Look up a text that a table shows: None where it is missing, InputError where it is too long."""
    value: str | None = field(content, key, str, where)
    if value is not None and len(value) > _MAX_NAME:
        raise InputError(f"{where}: {key!r} has {len(value)} characters, more than {_MAX_NAME}")
    return value


def required_name(content: dict[str, Any], key: str, where: str) -> str:
    """Look up a text that a table shows: InputError where it is missing or too long."""
    required(content, key, str, where)
    return name_field(content, key, where) or ""


def _add_pairs(pairs_of_set: dict[str, int], utterance: DecodedUtterance, where: str) -> None:
    """Add an utterance's pairs to those of its set; InputError where either takes too long."""
    texts = [text.split() for text in (utterance.reference, utterance.hypothesis)]
    sizes = {
        "words": [len(words) for words in texts],
        "characters": [sum(map(len, words)) + max(len(words) - 1, 0) for words in texts],
    }
    for unit, (reference, hypothesis) in sizes.items():
        pairs = reference * hypothesis
        pairs_of_set[unit] += pairs
        for what, found, most in (
            ("", pairs, _MAX_PAIRS[unit]),
            ("with those before it ", pairs_of_set[unit], _MAX_PAIRS_OF_SET[unit]),
        ):
            if found > most:
                raise InputError(
                    f"{where}: utterance {utterance.id!r} has {reference} {unit} of reference and "
                    f"{hypothesis} of hypothesis, {what}{found:.2g} pairs to compare; at most "
                    f"{most:.0e} can be scored"
                )


def _parse_utterance(line: str, where: str) -> DecodedUtterance:
    content = parse_object(line, where)
    duration_s = required(content, "duration_s", float, where)
    if not 0 <= duration_s < _MAX_DURATION_S:
        raise InputError(f"{where}: 'duration_s' is {duration_s}, expected seconds")
    if not required(content, "id", str, where).strip():
        raise InputError(f"{where}: 'id' is empty")
    speaker = name_field(content, "speaker", where) or ""
    return DecodedUtterance(
        id=required_name(content, "id", where),
        speaker=speaker if speaker.strip() else UNKNOWN_SPEAKER,
        duration_s=duration_s,
        reference=required(content, "reference", str, where),
        hypothesis=required(content, "hypothesis", str, where),
        score=field(finite(content), "score", float, where),
    )
