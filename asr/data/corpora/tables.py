"""Tables of utterances: TSV as Common Voice has it, and JSON lines as NeMo has them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from asr.data.corpora.common import line_left_out, name_utterances, number_or_none, read_lines
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.manifest import LeftOut
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError
from asr.files import field, parse_object, required

COMMON_VOICE_PARTS = ("train", "dev", "test")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what; the defaults are Common Voice's.

    Speaker, start and duration (seconds) may be None: not in the table.
    """

    audio: str = "path"
    text: str = "sentence"
    speaker: str | None = "client_id"
    start: str | None = None
    duration: str | None = None


def common_voice_tables(corpus: Path) -> list[Path]:
    """``train.tsv``, ``dev.tsv`` and ``test.tsv`` of a Common Voice folder, as far as they exist.

    Raises:
        InputError: none of them does.
    """
    tables = [corpus / f"{part}.tsv" for part in COMMON_VOICE_PARTS]
    found = [table for table in tables if table.is_file()]
    if not found:
        raise InputError(
            f"{corpus}: no train.tsv, dev.tsv or test.tsv in this folder; name the tables themselves"
        )
    return found


def read_tsv(table: Path, clips: Path | None = None, columns: Columns | None = None) -> Part:
    """A table with a header; the part has the file's name.

    Fields are separated by tabs and never quoted (a quotation mark is part of the text).

    Args:
        clips: folder that the audio paths start from; by default ``clips`` beside the table where
            there is one, else the table's own folder.

    Raises:
        InputError: no such file, or a column that it does not have.
    """
    columns = columns or Columns()
    if clips is None:
        clips = table.parent / "clips"
        clips = clips if clips.is_dir() else table.parent
    elif not clips.is_dir():
        raise InputError(f"{clips}: no such folder")
    left_out: list[LeftOut] = []
    utterances: list[Utterance] = []
    places: dict[str, int] | None = None
    num_columns = 0
    for number, line in read_lines(table, left_out):
        cells = line.split("\t")
        if places is None:
            places, num_columns = _places(table, cells, columns), len(cells)
            continue
        if len(cells) != num_columns:
            detail = f"{len(cells)} fields instead of the header's {num_columns}"
            left_out.append(line_left_out(table, number, "malformed line", detail))
            continue
        row = {name: cells[place].strip() for name, place in places.items()}
        start_s, duration_s = _number(row, "start", 0.0), _number(row, "duration", None)
        utterances.append(
            Utterance(
                id="",
                audio_path=clips / row["audio"],
                text=row["text"],
                speaker=row.get("speaker") or UNKNOWN_SPEAKER,
                start_s=0.0 if start_s is None else start_s,
                duration_s=duration_s,
            )
        )
    if places is None:
        raise InputError(f"{table}: empty: not even a header")
    return Part(table.stem, name_utterances(utterances), left_out)


def _number(row: dict[str, str], name: str, default: float | None) -> float | None:
    """NaN, which fits nowhere, where a field is no number."""
    if not row.get(name):
        return default
    value = number_or_none(row[name])
    return float("nan") if value is None else value


def _places(table: Path, header: list[str], columns: Columns) -> dict[str, int]:
    header = [name.strip() for name in header]
    places = {}
    for name, column in vars(columns).items():
        if column is None:
            continue
        if column in header:
            places[name] = header.index(column)
        elif column != Columns.speaker:  # a table need not know Common Voice's speakers
            nearest = difflib.get_close_matches(column, header, n=1)
            hint = (
                f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(header)[:200]}"
            )
            raise InputError(f"{table}: no column {column!r} for the {name}; {hint}")
    return places


def read_jsonl(manifest: Path) -> Part:
    """NeMo's form: one object per line with ``audio_filepath`` and ``text``; the part has the file's
    name.

    ``offset`` and ``duration`` (seconds) are a segment, ``speaker`` and ``id`` are used where
    they are. Paths start from the manifest's folder.

    Raises:
        InputError: no such file.
    """
    left_out: list[LeftOut] = []
    utterances: list[Utterance] = []
    for number, line in read_lines(manifest, left_out):
        try:
            utterances.append(_parse(line, manifest.parent))
        except InputError as error:
            left_out.append(line_left_out(manifest, number, "malformed line", str(error)))
    return Part(manifest.stem, name_utterances(utterances), left_out)


def _parse(line: str, folder: Path) -> Utterance:
    content = parse_object(line, "object")
    speaker, name = content.get("speaker"), content.get("id")
    return Utterance(
        id="" if name is None else str(name),
        audio_path=folder / required(content, "audio_filepath", str, "object"),
        text=required(content, "text", str, "object").strip(),
        speaker=UNKNOWN_SPEAKER if speaker in (None, "") else str(speaker),
        start_s=field(content, "offset", float, "object") or 0.0,
        duration_s=field(content, "duration", float, "object"),
    )
