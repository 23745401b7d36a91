"""ARPA files, the text format of back-off n-gram models; a name that ends in .gz is gzipped."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import write_atomically
from asr.lm.ngram import SENTENCE_END, SENTENCE_START, UNKNOWN_WORD, Level, NgramModel

# Probability of an unknown word where a file has none for it: what KenLM takes.
_LOG10_UNKNOWN = -100.0

_COUNT = re.compile(r"ngram (\d+)\s*=\s*(\d+)")


def read_arpa(path: Path) -> NgramModel:
    """The model of an ARPA file.

    Raises:
        InputError: no such file, not ARPA, or damaged; the message names the line.
    """
    try:
        with _open(path) as file:
            return _Reader(path, file).read()
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot read: {reason}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not an ARPA file: not UTF-8 text") from None


def write_arpa(model: NgramModel, path: Path) -> None:
    """Writes the model whole or not at all; the same model gives the same bytes.

    Raises:
        InputError: the folder cannot be written to.
    """
    out = io.StringIO()
    out.write("\\data\\\n")
    for order, level in enumerate(model.levels, start=1):
        out.write(f"ngram {order}={len(level.keys)}\n")
    words = np.array(model.words, dtype=object)
    spelled = np.array([""], dtype=object)
    for order, level in enumerate(model.levels, start=1):
        out.write(f"\n\\{order}-grams:\n")
        prefixes, lasts = np.divmod(level.keys, len(words))
        gap = " " if order > 1 else ""
        spelled = spelled[prefixes] + gap + words[lasts]
        rows = zip(
            level.log10_prob.tolist(), spelled.tolist(), level.log10_backoff.tolist(), strict=True
        )
        if order < model.order:
            out.writelines(f"{prob:.7g}\t{text}\t{backoff:.7g}\n" for prob, text, backoff in rows)
        else:
            out.writelines(f"{prob:.7g}\t{text}\n" for prob, text, _ in rows)
    out.write("\n\\end\\\n")
    content = out.getvalue().encode()
    write_atomically(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


class _Reader:
    def __init__(self, path: Path, file: io.TextIOBase) -> None:
        self._path = path
        self._number = 0
        self._lines = self._count(file)

    def read(self) -> NgramModel:
        counts = self._read_counts()
        words: list[str] = []
        ids: dict[str, int] = {}
        levels: list[Level] = []
        for order, count in enumerate(counts, start=1):
            texts, probs, backoffs = self._read_section(order, count, order < len(counts))
            if order == 1:
                words = [UNKNOWN_WORD if word == "<UNK>" else word for word in texts]
                if UNKNOWN_WORD not in words:
                    words.append(UNKNOWN_WORD)
                    probs, backoffs = [*probs, _LOG10_UNKNOWN], [*backoffs, 0.0]
                unknown = words.index(UNKNOWN_WORD)
                words.insert(0, words.pop(unknown))
                probs.insert(0, probs.pop(unknown))
                backoffs.insert(0, backoffs.pop(unknown))
                ids = {word: number for number, word in enumerate(words)}
                for word in (SENTENCE_START, SENTENCE_END):
                    if word not in ids:
                        self._fail(f"no unigram {word}")
                keys = np.arange(len(words), dtype=np.int64)
                if len(ids) < len(words):
                    self._fail("a unigram is listed twice")
            else:
                keys = self._keys(texts, order, ids, levels)
            levels.append(self._sorted(keys, probs, backoffs, order))
        line = next(self._lines, "")
        if line != "\\end\\":
            self._fail(f"expected \\end\\, found {line!r}")
        return NgramModel(words, levels)

    def _read_counts(self) -> list[int]:
        for line in self._lines:
            if line == "\\data\\":
                break
        else:
            self._fail("not an ARPA file: no line \\data\\")
        counts: list[int] = []
        for line in self._lines:
            if line == "\\1-grams:":
                break
            order = len(counts) + 1
            found = _COUNT.fullmatch(line)
            if found is None or int(found.group(1)) != order:
                self._fail(f"expected 'ngram {order}=COUNT', found {line!r}")
            counts.append(int(found.group(2)))
        if not counts or not counts[0]:
            self._fail("no unigrams")
        return counts

    def _read_section(
        self, order: int, count: int, may_back_off: bool
    ) -> tuple[list[str], list[float], list[float]]:
        """(n-grams, log10 probabilities, log10 back-offs), in the file's order."""
        if order > 1:
            header = next(self._lines, "")
            if header != f"\\{order}-grams:":
                self._fail(f"expected \\{order}-grams:, found {header!r}")
        texts, probs, backoffs = [], [], []
        for _ in range(count):
            parts = next(self._lines, "").split("\t")
            if len(parts) < 2 or (len(parts) == 3 and not may_back_off) or len(parts) > 3:
                parts = self._split_at_spaces(parts, order)
            try:
                probs.append(float(parts[0]))
                backoffs.append(float(parts[2]) if len(parts) == 3 else 0.0)
            except ValueError:
                self._fail(f"not a number in {parts!r}")
            if not probs[-1] <= 0.0 or math.isnan(backoffs[-1]):
                self._fail(f"log10 probability {parts[0]}: must be 0 or less")
            texts.append(parts[1])
        return texts, probs, backoffs

    def _split_at_spaces(self, parts: list[str], order: int) -> list[str]:
        """Some programs write spaces where the format has tabs."""
        fields = " ".join(parts).split()
        if len(fields) not in (order + 1, order + 2):
            self._fail(f"expected {order} words between tabs, found {' '.join(parts)!r}")
        return [fields[0], " ".join(fields[1 : order + 1]), *fields[order + 1 :]]

    def _keys(
        self, texts: list[str], order: int, ids: dict[str, int], levels: list[Level]
    ) -> NDArray[np.int64]:
        """The key of each n-gram, see ``Level``."""
        split = [text.split(" ") for text in texts]
        for words in split:
            if len(words) != order:
                self._fail(f"{' '.join(words)!r} among the {order}-grams")
        try:
            numbers = [[ids[word] for word in words] for words in split]
        except KeyError as missing:
            self._fail(f"{missing.args[0]!r} among the {order}-grams is no unigram")
        ids_nk = np.array(numbers, dtype=np.int64).reshape(len(texts), order)
        rows = ids_nk[:, 0]
        for length in range(1, order - 1):
            known = levels[length].keys
            wanted = rows * len(ids) + ids_nk[:, length]
            rows = np.searchsorted(known, wanted)
            found = np.append(known, -1)[rows] == wanted
            if not found.all():
                text = texts[int(np.flatnonzero(~found)[0])]
                self._fail(f"the first {order - 1} words of {text!r} are not listed themselves")
        return rows * len(ids) + ids_nk[:, -1]

    def _sorted(
        self, keys: NDArray[np.int64], probs: list[float], backoffs: list[float], order: int
    ) -> Level:
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if (keys[1:] == keys[:-1]).any():
            self._fail(f"one of the {order}-grams is listed twice")
        return Level(
            keys,
            np.array(probs, dtype=np.float32)[by_key],
            np.array(backoffs, dtype=np.float32)[by_key],
        )

    def _count(self, file: io.TextIOBase) -> Iterator[str]:
        """Lines that are not empty, stripped, while ``_number`` follows."""
        for line in file:
            self._number += 1
            if stripped := line.strip(" \t\r\n"):
                yield stripped

    def _fail(self, reason: str) -> NoReturn:
        raise InputError(f"{self._path}, line {self._number}: {reason}")


def _open(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")
