"""Destinations of transcripts: standard output, or one file per source and format."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asr.errors import InputError
from asr.files import check_writable, read_bytes, spell_out, write_atomically
from asr.printable import printable
from asr.transcribe.formats import FORMATS, JOINABLE, SUFFIXES, to_ascii_json
from asr.transcribe.result import Transcript
from asr.transcribe.sources import Source


def parse_formats(text: str) -> list[str]:
    """``"srt,json"`` to the names of formats.

    Raises:
        InputError: one that does not exist.
    """
    names = list(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise InputError(f"format {name!r}: choose from {', '.join(FORMATS)}")
    return names


class Printed:
    """Everything to standard output, in one format."""

    def __init__(self, formats: Sequence[str], num_sources: int):
        """
        Raises:
            InputError: more than one format, or files that cannot follow each other in one stream; no
                standard output.
        """
        if sys.stdout is None:
            raise InputError("standard output is closed; --out FOLDER writes files")
        if len(formats) > 1:
            raise InputError(
                f"formats {', '.join(formats)}: one goes to standard output; "
                "--beside or --out FOLDER writes several"
            )
        self._format = formats[0]
        self._many = num_sources > 1
        if self._many and self._format not in JOINABLE:
            raise InputError(
                f"format {self._format!r}: {num_sources} inputs do not fit into one stream; "
                "use --beside or --out FOLDER"
            )

    def is_done(self, source: Source) -> bool:
        """Nothing is printed twice, nothing was printed before."""
        return False

    def check_input(self, source: Source) -> None:
        """Nothing is there that could be of another input."""

    def write(self, source: Source, transcript: Transcript) -> bool:
        """Print a transcript. Returns whether standard output can hold all its characters; JSON has
        escapes for them, in other formats they become backslashes."""
        encoding = sys.stdout.encoding or "utf-8"
        text = FORMATS[self._format](transcript)
        can_hold = _can_hold(encoding, text)
        if self._format == "json" and not can_hold:
            text, can_hold = to_ascii_json(transcript), True
        if self._format == "txt":  # a line of it cannot be taken for two, nor steer a terminal
            text = printable(text.removesuffix("\n")) + "\n"
            if self._many:
                text = f"{printable(spell_out(source.name))}\t{text}"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
        return can_hold


def _can_hold(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


class Written:
    """A file for each source and format, whole or not at all."""

    def __init__(
        self,
        formats: Sequence[str],
        sources: Sequence[Source],
        folder: Path | None,
        overwrite: bool = False,
    ):
        """
        Args:
            folder: where the files go, made if missing; None is beside each input.
            overwrite: whether they replace files that are there; without it these stay.

        Raises:
            InputError: an input that is no file, with nowhere to be beside of; a folder that cannot be
                written to.
        """
        self._formats = formats
        self._overwrite = overwrite
        sources = [source for source in sources if source.out is not None]
        for source in sources:
            if folder is None and source.path is None:
                raise InputError(f"{source.name}: not a file to write beside; use --out FOLDER")
        if folder is None:
            targets = [source.path for source in sources if source.path is not None]
        else:
            check_writable(folder)
            targets = [folder / name for name in _told_apart(sources)]
        stems = _stems(targets)
        self._stems = {source.key: stem for source, stem in zip(sources, stems, strict=True)}
        self._inputs = None if folder is None else InputsRecord(folder)

    def is_done(self, source: Source) -> bool:
        """Tell whether every file of the source's results is there and none is to be replaced."""
        if source.out is None or self._overwrite:
            return False
        return all(os.path.exists(path) for _, path in self._files(source))

    def check_input(self, source: Source) -> None:
        """Check that results which are there are not of another input.

        Raises:
            InputError: they are, and are not to be replaced.
        """
        if source.out is None or self._overwrite or self._inputs is None:
            return
        stem, there = self._stems[source.key], [path for _, path in self._files(source)]
        before = self._inputs.read(stem)
        if before not in (None, _identity(source)) and any(map(os.path.exists, there)):
            raise InputError(
                f"{source.name}: {stem} has the results of another input, {before}; "
                "name another folder with --out, or replace them with --overwrite"
            )

    def write(self, source: Source, transcript: Transcript) -> bool:
        """Write the files that are missing, or all where they are to be replaced; returns True.

        Raises:
            InputError: a file that cannot be written, after the others were.
        """
        error = None
        for name, path in self._files(source):
            if self._overwrite or not os.path.exists(path):
                try:
                    write_atomically(path, FORMATS[name](transcript))
                except InputError as reason:
                    error = reason
        if error is not None:
            raise error
        if self._inputs is not None:
            self._inputs.write(self._stems[source.key], _identity(source))
        return True

    def _files(self, source: Source) -> list[tuple[str, Path]]:
        stem = self._stems[source.key]
        return [(name, stem.with_name(stem.name + SUFFIXES[name])) for name in self._formats]


def _identity(source: Source) -> str:
    place = source.key
    return spell_out(f"/{place}" if isinstance(place, Path) else f"/{place[0]}: {place[1]}")


class InputsRecord:
    """The input of each result in a folder: x/talk.wav and y/talk.wav both give talk.txt.

    A hidden file of JSON lines, of which the last for a result counts.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._path = folder / ".inputs.jsonl"
        self._inputs: dict[str, str] = {}
        with contextlib.suppress(OSError):
            for line in read_bytes(self._path).splitlines():
                with contextlib.suppress(ValueError, TypeError, KeyError):  # cut off by a kill
                    item = json.loads(line)
                    self._inputs[str(item["result"])] = str(item["input"])

    def read(self, stem: Path) -> str | None:
        """Return the input of a result without its suffix; None where nothing is recorded."""
        return self._inputs.get(self._name(stem))

    def write(self, stem: Path, source: str) -> None:
        """Record the input of a result that is there; a full disk costs the record, not the result."""
        name = self._name(stem)
        if self._inputs.get(name) == source:
            return
        self._inputs[name] = source
        line = json.dumps({"result": name, "input": source}) + "\n"
        with contextlib.suppress(OSError):
            size = self._path.stat().st_size if self._path.exists() else 0
            try:
                with self._path.open("ab") as file:
                    file.write(line.encode())
            except OSError:
                os.truncate(self._path, size)
                if not size:
                    self._path.unlink()

    def _name(self, stem: Path) -> str:
        return spell_out(str(stem.relative_to(self._folder)))


def _told_apart(sources: Sequence[Source]) -> list[Path]:
    """A name within the folder of results for each source: x/talk.wav gives talk.wav, and where there
    is y/talk.wav too, both keep as many of their folders as tell them apart.

    Raises:
        InputError: two cuts of a manifest whose ids differ only in characters that files cannot have.
    """
    num_kept = [0] * len(sources)
    while True:
        names = [
            Path(*source.home.parts[len(source.home.parts) - count :], source.out or "")
            for source, count in zip(sources, num_kept, strict=True)
        ]
        by_name: dict[Path, list[int]] = {}
        for index, name in enumerate(names):
            by_name.setdefault(name, []).append(index)
        alike = [indices for indices in by_name.values() if len(indices) > 1]
        if not alike:
            return names
        for first, *others in alike:
            may_grow = [i for i in (first, *others) if num_kept[i] < len(sources[i].home.parts)]
            if not may_grow:
                both = f"{sources[first].name}, {sources[others[0]].name}"
                raise InputError(f"{both}: results would go to one file; give them apart")
            for index in may_grow:
                num_kept[index] += 1


def _stems(targets: Sequence[Path]) -> list[Path]:
    """Return what the suffix of a format is put to: talk.mp3 gives talk; where there is talk.wav too,
    they stay talk.mp3 and talk.wav."""
    stems = [target.with_suffix("") for target in targets]
    while True:
        counts = Counter(stems)
        kept = [
            target if counts[stem] > 1 else stem
            for target, stem in zip(targets, stems, strict=True)
        ]
        if kept == stems:
            return stems
        stems = kept
