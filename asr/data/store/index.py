"""Cuts by number: a small manifest in memory, a large one from an index on disk, several as one.

A gzipped manifest cannot be read from its middle, and a million deserialised cuts take gigabytes and
minutes. So a large manifest is unpacked once into a folder beside it: its lines as they are, where
each begins, and what batches are planned from (durations, hashes of ids and speakers) as arrays. All
of it is mapped into memory, not read: opening takes milliseconds, and processes share the pages.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item
from tqdm import tqdm

from asr.data.draws import stable_hash
from asr.data.store.gate import ForeignSource, check_item, parse_line
from asr.data.store.manifest import (
    MALFORMED,
    check_fields,
    explain_error,
    manifest_lines,
    read_cuts,
)
from asr.errors import InputError
from asr.text.tokenizer import TextProcessor

# Manifests of fewer bytes are read whole, which takes seconds and leaves nothing on the disk.
INDEX_ABOVE_BYTES = 2 << 20
# What an index holds and how; another number and indices are made anew.
_FORMAT = 1
_COLUMNS = ("durations_s", "keys", "speaker_keys", "offsets")
# What these say of themselves is in the line; others (MixedCut) must be deserialised for it.
_PLAIN_CUTS = ("MonoCut", "MultiCut")
# A cached count of frames belongs to a tokenizer that splits this many texts the same way.
_PROBED_TEXTS = 100

# Fields of cuts that say where audio and features lie.
_PLACES = ("sources", "source", "storage_path", "storage_key")

FramesNeeded = Callable[[Sequence[int]], int]
"""``Head.frames_needed``."""

NO_TEXT = -1
"""In ``CutTable.frames_needed``: nothing is left of the text after normalisation."""


class CutTable(ABC):
    """A sequence of cuts.

    Attributes:
        durations_s: float64 seconds of each.
        keys: uint64, 64 bits of a hash of each id: what draws for an utterance are keyed by.
        speaker_keys: uint64, the same of each first speaker.
        sources: the number of the manifest that each comes from, where several were opened as one.
    """

    durations_s: np.ndarray
    keys: np.ndarray
    speaker_keys: np.ndarray
    sources: np.ndarray

    def __len__(self) -> int:
        return len(self.durations_s)

    @abstractmethod
    def __getitem__(self, index: int) -> Cut: ...

    @abstractmethod
    def text(self, index: int) -> str:
        """The transcript as the manifest has it; see ``cut_text``."""

    def __iter__(self) -> Iterator[Cut]:
        return (self[index] for index in range(len(self)))

    def frames_needed(self, head: str, count: FramesNeeded, processor: TextProcessor) -> np.ndarray:
        """Return the fewest frames that a head needs for each text (int32), or ``NO_TEXT``."""
        encode = processor.tokenizer.encode
        texts = (processor.normalise(self.text(index)) for index in range(len(self)))
        needed = (count(encode(text)) if text.strip() else NO_TEXT for text in texts)
        bar = tqdm(needed, total=len(self), desc="tokens", unit="utt", leave=False, disable=None)
        return np.fromiter(bar, np.int32, len(self))

    def fingerprint(self) -> str:
        """SHA-256 of what is trained on: ids, order, times, texts, speakers; not of where it lies."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            identity = json.dumps(_identity(self._item(index)), sort_keys=True)
            digest.update(identity.encode() + b"\n")
        return digest.hexdigest()

    @abstractmethod
    def _item(self, index: int) -> dict[str, Any]:
        """The cut as JSON has it."""

    def select(self, indices: np.ndarray, givers: np.ndarray | None = None) -> CutTable:
        """Those cuts, in that order, each with its own text or that of its giver."""
        return _Selection(self, indices, indices if givers is None else givers)


class CutList(CutTable):
    """Cuts in memory."""

    def __init__(self, cuts: Iterable[Cut]) -> None:
        self._cuts = list(cuts)
        self.durations_s = np.array([cut.duration for cut in self._cuts], dtype=np.float64)
        self.keys = _hashes(str(cut.id) for cut in self._cuts)
        self.speaker_keys = _hashes(cut_speaker(cut) for cut in self._cuts)
        self.sources = np.zeros(len(self._cuts), dtype=np.int32)

    def __getitem__(self, index: int) -> Cut:
        return self._cuts[index]

    def text(self, index: int) -> str:
        return cut_text(self._cuts[index])

    def _item(self, index: int) -> dict[str, Any]:
        return self._cuts[index].to_dict()


class CutIndex(CutTable):
    """Cuts of a manifest of any size, each deserialised when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is what ``build_index`` made."""
        self.folder = folder
        columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        self.durations_s, self.keys = columns["durations_s"], columns["keys"]
        self.speaker_keys, self._offsets = columns["speaker_keys"], columns["offsets"]
        self.sources = np.zeros(len(self.keys), dtype=np.int32)
        with (folder / "lines.jsonl").open("rb") as file:
            self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _item(self, index: int) -> dict[str, Any]:
        return json.loads(self._lines[self._offsets[index] : self._offsets[index + 1]])

    def __getitem__(self, index: int) -> Cut:
        return deserialize_item(self._item(index))

    def text(self, index: int) -> str:
        item = self._item(index)
        if item["type"] in _PLAIN_CUTS:
            return " ".join(part["text"] for part in item["supervisions"] if part.get("text"))
        return cut_text(deserialize_item(item))

    def frames_needed(self, head: str, count: FramesNeeded, processor: TextProcessor) -> np.ndarray:
        some = range(min(_PROBED_TEXTS, len(self)))
        probes = [processor.tokens(self.text(index)) for index in some]
        known: list[object] = [processor.tokenizer.pieces, probes]
        if head != "ctc":  # its count is settled, and its files are older than other heads
            known.append([count(tokens) for tokens in probes])
        path = self.folder / f"{head}-frames-{stable_hash(json.dumps(known)):032x}.npy"
        if not path.is_file():
            needed = super().frames_needed(head, count, processor)
            _write_whole(path, lambda temporary: np.save(temporary, needed))
        return np.load(path, mmap_mode="r")

    def fingerprint(self) -> str:
        path = self.folder / "fingerprint.npy"
        if not path.is_file():
            found = np.array(super().fingerprint())
            _write_whole(path, lambda temporary: np.save(temporary, found))
        return str(np.load(path))

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]


class Concatenated(CutTable):
    """Several tables as one; ``starts`` holds the first number of each."""

    def __init__(self, parts: Sequence[CutTable]) -> None:
        self._parts = list(parts)
        self.starts = np.cumsum([0, *(len(part) for part in parts)])[:-1]
        self.durations_s = np.concatenate([part.durations_s for part in parts])
        self.keys = np.concatenate([part.keys for part in parts])
        self.speaker_keys = np.concatenate([part.speaker_keys for part in parts])
        self.sources = np.repeat(np.arange(len(parts), dtype=np.int32), list(map(len, parts)))

    def _find(self, index: int) -> tuple[CutTable, int]:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self._parts[part], index - int(self.starts[part])

    def __getitem__(self, index: int) -> Cut:
        part, place = self._find(index)
        return part[place]

    def text(self, index: int) -> str:
        part, place = self._find(index)
        return part.text(place)

    def _item(self, index: int) -> dict[str, Any]:
        part, place = self._find(index)
        return part._item(place)

    def fingerprint(self) -> str:
        parts = "".join(part.fingerprint() for part in self._parts)
        return hashlib.sha256(parts.encode()).hexdigest()

    def frames_needed(self, head: str, count: FramesNeeded, processor: TextProcessor) -> np.ndarray:
        return np.concatenate([part.frames_needed(head, count, processor) for part in self._parts])


class _Selection(CutTable):
    def __init__(self, table: CutTable, indices: np.ndarray, givers: np.ndarray) -> None:
        self._table, self._indices, self._givers = table, indices, givers
        self.durations_s = table.durations_s[indices]
        self.keys = table.keys[indices]
        self.speaker_keys = table.speaker_keys[indices]
        self.sources = table.sources[indices]

    def __getitem__(self, index: int) -> Cut:
        return self._table[int(self._indices[index])]

    def text(self, index: int) -> str:
        return self._table.text(int(self._givers[index]))

    def frames_needed(self, head: str, count: FramesNeeded, processor: TextProcessor) -> np.ndarray:
        return self._table.frames_needed(head, count, processor)[self._givers]

    def _item(self, index: int) -> dict[str, Any]:
        return self._table._item(int(self._indices[index]))


def open_cuts(paths: Sequence[str | Path], index_folder: str | Path = "") -> CutTable:
    """The cuts of manifests, one after the other.

    Args:
        index_folder: where the indices of large manifests lie; empty: beside each manifest.

    Raises:
        InputError: as ``read_cuts``, or an index cannot be written.
    """
    parts: list[CutTable] = []
    for path in map(Path, paths):
        if path.is_file() and path.stat().st_size > INDEX_ABOVE_BYTES:
            parts.append(CutIndex(build_index(path, Path(index_folder or path.parent))))
        else:
            parts.append(CutList(read_cuts(path)))
    return parts[0] if len(parts) == 1 else Concatenated(parts)


def build_index(path: Path, folder: Path) -> Path:
    """The manifest's index in ``folder``, made if it is not there or the manifest has changed.

    Raises:
        InputError: not a manifest of cuts, an id twice, or the folder cannot be written to.
    """
    known = path.stat()
    version = stable_hash(_FORMAT, str(path.resolve()), known.st_size, known.st_mtime_ns)
    index = folder / f"{path.name}.index-{version:032x}"
    if not index.is_dir():
        _write_whole(index, lambda temporary: _fill(path, temporary))
        for stale in folder.glob(f"{path.name}.index-*"):
            if stale != index:
                shutil.rmtree(stale, ignore_errors=True)
    return index


def _fill(path: Path, index: Path) -> None:
    index.mkdir()
    offsets, durations_s, keys, speaker_keys = [0], [], [], []
    bar = tqdm(_lines_of(path), desc=f"index of {path.name}", unit="utt", disable=None)
    with (index / "lines.jsonl").open("wb") as file, bar as lines:
        for number, line in enumerate(lines, start=1):
            try:
                name, duration_s, speaker = _describe(line)
            except ForeignSource as error:
                raise ForeignSource(f"{path}: line {number}: {error}") from None
            except MALFORMED as error:
                raise InputError(
                    f"{path}: line {number} is not a Lhotse cut ({explain_error(error)})"
                ) from None
            durations_s.append(duration_s)
            keys.append(_hash(name))
            speaker_keys.append(_hash(speaker))
            offsets.append(offsets[-1] + file.write(line))
    if not keys:
        raise InputError(f"{path}: an empty manifest: no cuts in it")
    columns = {
        "durations_s": np.array(durations_s, dtype=np.float64),
        "keys": np.array(keys, dtype=np.uint64),
        "speaker_keys": np.array(speaker_keys, dtype=np.uint64),
        "offsets": np.array(offsets, dtype=np.int64),
    }
    for name, column in columns.items():
        np.save(index / f"{name}.npy", column)
    unique, counts = np.unique(columns["keys"], return_counts=True)
    if len(unique) < len(keys):
        first = int(np.flatnonzero(columns["keys"] == unique[counts > 1][0])[0])
        raise InputError(f"{path}: two cuts have the id {CutIndex(index)[first].id!r}")


def _lines_of(path: Path) -> Iterator[bytes]:
    """A manifest's cuts as JSON lines, whatever format it is in."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from (line for line in manifest_lines(path) if line.strip())
    else:
        for cut in read_cuts(path):
            yield (json.dumps(cut.to_dict(), ensure_ascii=False) + "\n").encode()


def _describe(line: bytes) -> tuple[str, float, str]:
    """A cut's id, seconds and speaker."""
    item = parse_line(line)
    check_item(item)
    if item["type"] in _PLAIN_CUTS:
        told = [(part.get("text"), part.get("speaker")) for part in item["supervisions"]]
        check_fields(item["id"], item["duration"], told)
        return item["id"], float(item["duration"]), str(told[0][1] or "") if told else ""
    cut = deserialize_item(item)
    if not isinstance(cut, Cut):
        raise TypeError(f"a {type(cut).__name__}")
    check_fields(cut.id, cut.duration, [(part.text, part.speaker) for part in cut.supervisions])
    return str(cut.id), float(cut.duration), cut_speaker(cut)


def _identity(value: Any) -> Any:
    """JSON without paths and what follows from another format: the same for a copy elsewhere."""
    if isinstance(value, dict):
        return {
            key: _identity(item)
            for key, item in value.items()
            if key not in _PLACES and item is not None
        }
    if isinstance(value, list):
        return [_identity(item) for item in value]
    return float(value) if isinstance(value, int) else value


def cut_text(cut: Cut) -> str:
    """The cut's transcript as the manifest has it, supervisions joined by spaces."""
    return " ".join(part.text for part in cut.supervisions if part.text)


def cut_speaker(cut: Cut) -> str:
    """The first supervision's speaker, or an empty text."""
    return str(cut.supervisions[0].speaker or "") if cut.supervisions else ""


def _hash(text: str) -> int:
    return stable_hash(text) & 0xFFFF_FFFF_FFFF_FFFF


def _hashes(texts: Iterable[str]) -> np.ndarray:
    return np.array([_hash(text) for text in texts], dtype=np.uint64)


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """``write`` a file or folder beside ``path`` and rename it: there whole or not at all.

    Of several processes that do so at once one wins, and the others take what it made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as scratch:
            temporary = Path(scratch) / path.name
            write(temporary)
            try:
                os.replace(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
    except OSError as error:
        raise InputError(
            f"{path}: cannot write an index here: {error.strerror}; name a folder with data.index_folder"
        ) from None
