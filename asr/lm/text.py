"""Sentences for language models: from text files and from the transcripts of manifests."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import lzma
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from asr.data.store.index import cut_text
from asr.data.store.manifest import MANIFEST_SUFFIX, read_cuts
from asr.errors import InputError
from asr.files import MOST_PACKED, most_unpacked
from asr.lm.arpa import MAX_WORD_BYTES
from asr.text.normalise import Normaliser

_MANIFEST_SUFFIXES = (MANIFEST_SUFFIX, ".yaml", ".yml", ".yaml.gz", ".yml.gz")

# What would be learnt as words: columns, times, names of speakers, markup.
_OTHER_SUFFIXES = re.compile(r"\.(csv|tsv|srt|vtt|ass|html?|xml|jsonl?|stm|ctm|trn|textgrid|eaf)")
_OTHER_STARTS = {
    "webvtt": "subtitles (WebVTT)",
    "<html": "HTML",
    "<!doctype": "HTML",
    "<?xml": "XML",
    "\\data\\": "a language model (ARPA)",
    "# sha256 ": "a language model (ARPA)",
}
_CUE_TIMES = re.compile(r"\s*(\d+:)?\d+:\d+[.,]\d+\s*-->", re.ASCII)
_COLUMNS = frozenset(("sentence", "path", "text", "transcript", "transcription", "client_id"))
_PACKED = (".gz", ".xz")
_HEAD = 10  # lines that are looked at
_MOST_CHARACTERS = 1_000_000  # of a line


def read_sentences(
    paths: Iterable[Path], normaliser: Normaliser, with_ids: bool = False
) -> Iterator[list[str]]:
    """The words of every sentence that has any, in the files' order.

    Args:
        paths: text with a sentence per line (``.gz``, ``.xz``: compressed), or manifests of cuts,
            known by their content, whose utterances are the sentences.
        with_ids: the first word of each line of a text is an utterance's id, as in LibriSpeech's
            transcripts; a space or a tab follows it.

    Raises:
        InputError: a file that cannot be read, is no plain text (a table, subtitles, markup, JSON that
            is no manifest of cuts), or has a word of more than ``MAX_WORD_BYTES``.
    """
    for path in paths:
        for place, text in _texts(path, with_ids):
            words = normaliser(text).split()
            longest = max((len(word.encode()) for word in words), default=0)
            if longest > MAX_WORD_BYTES:
                raise InputError(
                    f"{path}, {place}: a word of {longest} bytes; at most {MAX_WORD_BYTES} can be read "
                    "from a language model"
                )
            if words:
                yield words


def _texts(path: Path, with_ids: bool) -> Iterator[tuple[str, str]]:
    """Each text of a file and its place in it."""
    lines = ((f"line {n}", line) for n, line in enumerate(_lines(path), start=1) if line.strip())
    is_manifest = path.name.endswith(_MANIFEST_SUFFIXES)
    head = [] if is_manifest else list(itertools.islice(lines, _HEAD))
    if is_manifest or (head and _is_json(head[0][1])):
        yield from ((f"cut {cut.id}", cut_text(cut)) for cut in read_cuts(path))
        return
    if found := _other_format(path, [line for _, line in head], with_ids):
        raise InputError(
            f"{path}: {found}, not a sentence per line; write its sentences to a .txt file, one per "
            "line, or give a manifest of cuts (asr prepare)"
        )
    for place, line in itertools.chain(head, lines):
        if with_ids:
            yield from ((place, text) for text in line.split(maxsplit=1)[1:])
        else:
            yield place, line


def _other_format(path: Path, head: list[str], with_ids: bool) -> str | None:
    """Return what a file is that is no plain text, by its ending or its first lines, else None.

    An id, a tab and a text in each line are text where ids are asked for.
    """
    suffix = Path(path.name.lower().removesuffix(".gz").removesuffix(".xz")).suffix
    if _OTHER_SUFFIXES.fullmatch(suffix) and not (with_ids and suffix == ".tsv"):
        return f"a {suffix} file"
    first = head[0].strip().lower() if head else ""
    for start, what in _OTHER_STARTS.items():
        if first.startswith(start):
            return what
    if any(_CUE_TIMES.match(line) for line in head):
        return "subtitles"
    if "\t" in first and _COLUMNS & {cell.strip(' "') for cell in first.split("\t")}:
        return "a table"
    return None


def _is_json(line: str) -> bool:
    """Tell whether a file that begins so is JSON, of one object per line or of many lines."""
    line = line.strip()
    if line in ("{", "[") or line.startswith(("[{", "[ {")):
        return True
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    return cast(BinaryIO, lzma.open(path)) if path.suffix == ".xz" else path.open("rb")


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text, compressed or not, each and all of them bounded."""
    try:
        most = most_unpacked(path) if path.suffix in _PACKED else math.inf
        with (
            _open(path) as content,
            io.TextIOWrapper(content, encoding="utf-8-sig") as file,
        ):
            seen = 0
            for number in itertools.count(1):
                line = file.readline(_MOST_CHARACTERS)
                if not line:
                    return
                seen += len(line)
                if len(line) == _MOST_CHARACTERS:
                    raise InputError(
                        f"{path}, line {number}: no sentence, {len(line)} characters or more"
                    )
                if seen > most:
                    raise InputError(f"{path}: unpacks to more than {MOST_PACKED} times its size")
                yield line
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
