"""ARPA files, the text format of back-off n-gram models; a name that ends in .gz is gzipped."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from asr.errors import InputError
from asr.files import open_regular, write_atomically
from asr.lm.ngram import SENTENCE_END, SENTENCE_START, UNKNOWN_WORD, Level, NgramModel

# Probability of an unknown word where a file has none for it: what KenLM takes.
_LOG10_UNKNOWN = -100.0
_MOST_LOG10 = 1e4

_COUNT = re.compile(r"ngram\s+(\d{1,2})\s*=\s*(\d{1,18})", re.ASCII)
MAX_ORDER = 16
_MAX_LINE = 1 << 16
# Of a word in a model that is written here: five of them and two numbers fit into a line.
MAX_WORD_BYTES = 1 << 13
# Text that a .gz file may hold: models compress to a quarter, not to a hundredth.
_MOST_PER_BYTE, _LEAST = 32, 1 << 22
# Comment before the model, which other programs skip: the sum of all that follows it.
_SUM = re.compile(r"# sha256 ([0-9a-f]{64})", re.ASCII)
# The formats of IRSTLM that look like this one and mean something else.
_OTHER_FORMATS = ("iARPA", "qARPA")


def read_arpa(path: Path) -> NgramModel:
    """The model of an ARPA file.

    Raises:
        InputError: no such file, not ARPA, or damaged; the message names the line.
    """
    try:
        with open_regular(path) as packed:
            size = os.fstat(packed.fileno()).st_size
            if path.suffix != ".gz":
                return _Reader(path, packed, size).read()
            with gzip.GzipFile(fileobj=packed) as file:
                return _Reader(path, file, max(_LEAST, _MOST_PER_BYTE * size)).read()
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
    content = f"# sha256 {hashlib.sha256(content).hexdigest()}\n".encode() + content
    write_atomically(path, gzip.compress(content, 6, mtime=0) if path.suffix == ".gz" else content)


class _Reader:
    """Reads at most ``max_bytes`` of a file."""

    def __init__(self, path: Path, file: BinaryIO | gzip.GzipFile, max_bytes: int) -> None:
        self._path, self._max_bytes = path, max_bytes
        self._number = 0
        self._sum: str | None = None
        self._levels: list[Level] = []
        self._lines = self._count(file)

    def read(self) -> NgramModel:
        counts = self._read_counts()
        highest = len(counts)
        ids = self._read_unigrams(counts[0], highest)
        words = list(ids)
        for order, count in enumerate(counts[1:], start=2):
            header = next(self._lines, "")
            if header != f"\\{order}-grams:":
                self._fail(f"expected \\{order}-grams:, found {header[:80]!r}")
            numbers, probs, backoffs = array("i"), array("f"), array("f")
            for split, prob, backoff in self._section(order, count, order < highest):
                try:
                    numbers.extend(ids[word] for word in split)
                except KeyError as missing:
                    self._fail(f"{missing.args[0][:80]!r} among the {order}-grams is no unigram")
                probs.append(prob)
                backoffs.append(backoff)
            ids_nk = np.frombuffer(numbers, np.intc).reshape(count, order).astype(np.int64)
            self._levels.append(self._sorted(self._keys(ids_nk, words), probs, backoffs, order))
        line = next(self._lines, "")
        if line != "\\end\\":
            self._fail(f"expected \\end\\, found {line[:80]!r}")
        for _ in self._lines:  # to the end, where the sums are compared
            pass
        return NgramModel(words, self._levels)

    def _read_unigrams(self, count: int, highest: int) -> dict[str, int]:
        """The number of each word, 0 for unknown ones; their level is the first."""
        ids = {UNKNOWN_WORD: 0}
        probs, backoffs = array("f", [_LOG10_UNKNOWN]), array("f", [0.0])
        has_unknown = False
        for (word,), prob, backoff in self._section(1, count, highest > 1):
            if word in (UNKNOWN_WORD, "<UNK>") and not has_unknown:
                has_unknown = True
                probs[0], backoffs[0] = prob, backoff
                continue
            if word in ids:
                self._fail("a unigram is listed twice")
            ids[word] = len(ids)
            probs.append(prob)
            backoffs.append(backoff)
        for word in (SENTENCE_START, SENTENCE_END):
            if word not in ids:
                self._fail(f"no unigram {word}")
        self._levels.append(self._sorted(np.arange(len(ids)), probs, backoffs, 1))
        return ids

    def _read_counts(self) -> list[int]:
        for line in self._lines:
            if line == "\\data\\":
                break
            if line in _OTHER_FORMATS:
                self._fail(f"{line} is no ARPA; convert it with compile-lm --text=yes")
        else:
            self._fail("not an ARPA file: no line \\data\\")
        counts: list[int] = []
        for line in self._lines:
            if line == "\\1-grams:":
                break
            order = len(counts) + 1
            found = _COUNT.fullmatch(line)
            if found is None or int(found.group(1)) != order:
                self._fail(f"expected 'ngram {order}=COUNT', found {line[:80]!r}")
            if order > MAX_ORDER:
                self._fail(f"n-grams of at most {MAX_ORDER} words can be read")
            counts.append(int(found.group(2)))
        if not counts or not counts[0]:
            self._fail("no unigrams")
        # an n-gram has a digit, n separators, n letters and the end of its line
        least = sum(count * (2 * order + 2) for order, count in enumerate(counts, start=1))
        if least > self._max_bytes:
            self._fail(f"{sum(counts)} n-grams do not fit into this file")
        return counts

    def _section(
        self, order: int, count: int, may_back_off: bool
    ) -> Iterator[tuple[list[str], float, float]]:
        """(words, log10 probability, log10 back-off) of so many lines."""
        for _ in range(count):
            parts = next(self._lines, "").split("\t")
            if len(parts) < 2 or (len(parts) == 3 and not may_back_off) or len(parts) > 3:
                parts = self._split_at_spaces(parts, order)
            try:
                prob = float(parts[0])
                backoff = float(parts[2]) if len(parts) == 3 else 0.0
            except ValueError:
                self._fail(f"not a number in {str(parts)[:200]}")
            if not prob <= 0.0:
                self._fail(f"log10 probability {parts[0][:40]}: must be 0 or less")
            if not abs(backoff) <= _MOST_LOG10:
                self._fail(f"log10 back-off {parts[2][:40]}: must be at most {_MOST_LOG10:g}")
            words = parts[1].split(" ")
            if len(words) != order:
                self._fail(f"{parts[1][:80]!r} among the {order}-grams")
            yield words, max(prob, -_MOST_LOG10), backoff  # some programs write -inf

    def _split_at_spaces(self, parts: list[str], order: int) -> list[str]:
        """Some programs write spaces where the format has tabs."""
        fields = " ".join(parts).split()
        if len(fields) not in (order + 1, order + 2):
            self._fail(f"expected {order} words between tabs, found {' '.join(parts)[:80]!r}")
        return [fields[0], " ".join(fields[1 : order + 1]), *fields[order + 1 :]]

    def _keys(self, ids_nk: NDArray[np.int64], words: list[str]) -> NDArray[np.int64]:
        """The key of each n-gram, see ``Level``."""
        order, rows = ids_nk.shape[1], ids_nk[:, 0]
        for length in range(1, order - 1):
            known = self._levels[length].keys
            wanted = rows * len(words) + ids_nk[:, length]
            rows = np.searchsorted(known, wanted)
            found = np.append(known, -1)[rows] == wanted
            if not found.all():
                text = " ".join(words[number] for number in ids_nk[np.flatnonzero(~found)[0]])
                self._fail(
                    f"the first {order - 1} words of {text[:80]!r} are not listed themselves"
                )
        return rows * len(words) + ids_nk[:, -1]

    def _sorted(
        self, keys: NDArray[np.int64], probs: array[float], backoffs: array[float], order: int
    ) -> Level:
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if (keys[1:] == keys[:-1]).any():
            self._fail(f"one of the {order}-grams is listed twice")
        return Level(
            keys,
            np.frombuffer(probs, np.float32)[by_key],
            np.frombuffer(backoffs, np.float32)[by_key],
        )

    def _count(self, file: BinaryIO | gzip.GzipFile) -> Iterator[str]:
        """Lines that are not empty, stripped, while ``_number`` follows."""
        num_bytes, digest = 0, hashlib.sha256()
        while line := file.readline(_MAX_LINE):
            self._number += 1
            num_bytes += len(line)
            if len(line) == _MAX_LINE:
                self._fail(f"a line of {_MAX_LINE} bytes or more")
            if num_bytes > self._max_bytes:
                self._fail(f"{num_bytes} bytes of text in so small a file")
            found = _SUM.fullmatch(line.decode().strip()) if self._number == 1 else None
            if found:
                self._sum = found.group(1)
                continue
            if self._sum:
                digest.update(line)
            text = line.decode("utf-8-sig" if self._number == 1 else "utf-8")
            if stripped := text.strip(" \t\r\n"):
                yield stripped
        if self._sum and self._sum != digest.hexdigest():
            raise InputError(
                f"{self._path}: damaged: its SHA-256 sum is not the one in its first line"
            )

    def _fail(self, reason: str) -> NoReturn:
        raise InputError(f"{self._path}, line {self._number}: {reason}")
