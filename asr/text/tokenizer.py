"""Text to token ids and back: characters or SentencePiece pieces behind one interface.

Ids mean the same for every kind: 0 is the CTC blank (never produced by ``encode``), 1 is the
unknown piece, pieces follow. ``vocab_size`` counts all of them: it is the width of a CTC head.
"""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sentencepiece

from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.files import is_unicode, read_bytes, write_atomically
from asr.text.normalise import Normaliser

BLANK = 0
UNKNOWN = 1
BLANK_PIECE = "<blank>"
UNKNOWN_TEXT = "⁇"
SPM_FILE = "tokenizer.model"
CHAR_FILE = "tokenizer.json"
_CHAR_FORMAT = "sigmoid-asr characters 1"
MAX_VOCABULARY = 65536
MAX_TOKENIZER_BYTES = 1 << 24


class Tokenizer(ABC):
    """Encodes normalised text. ``decode(encode(text)) == text`` for text within the alphabet."""

    blank: int = BLANK
    kind: str

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, blank and unknown included."""

    @property
    @abstractmethod
    def pieces(self) -> list[str]:
        """The text of every id, in SentencePiece's spelling (``▁`` stands for a space)."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of a text, none of them blank; what was never seen in training is the unknown id."""

    def unwritable(self, characters: Iterable[str]) -> set[str]:
        """Those of the characters that have no token."""
        return {char for char in set(characters) if UNKNOWN in self.encode(char)}

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ids; blanks vanish, the unknown id reads ``⁇``.

        Raises:
            ValueError: an id outside the vocabulary.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the one file that ``load_tokenizer`` reads."""

    def _check(self, tokens: Sequence[int]) -> list[int]:
        checked = [int(token) for token in tokens]
        for token in checked:
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token {token} is outside 0..{self.vocab_size - 1}")
        return checked


@dataclass(frozen=True)
class TextProcessor:
    """Turns transcripts into tokens."""

    normalise: Normaliser
    tokenizer: Tokenizer

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text that is not normalised yet."""
        return self.tokenizer.encode(self.normalise(text))


class CharTokenizer(Tokenizer):
    """One token per character, spaces included, in code point order."""

    kind = "char"

    def __init__(self, characters: Sequence[str]) -> None:
        self._characters = list(characters)
        self._ids = {char: index for index, char in enumerate(self._characters, start=UNKNOWN + 1)}

    @property
    def vocab_size(self) -> int:
        return UNKNOWN + 1 + len(self._characters)

    @property
    def pieces(self) -> list[str]:
        spelled = ["▁" if char == " " else char for char in self._characters]
        return [BLANK_PIECE, UNKNOWN_TEXT, *spelled]

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(char, UNKNOWN) for char in text]

    def decode(self, tokens: Sequence[int]) -> str:
        texts = ["", UNKNOWN_TEXT, *self._characters]
        return "".join(texts[token] for token in self._check(tokens))

    def save(self, folder: Path) -> None:
        content = {"format": _CHAR_FORMAT, "characters": "".join(self._characters)}
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        write_atomically(folder / CHAR_FILE, text.encode("utf-8"))


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model (bpe or unigram) whose id 0 is the blank and id 1 the unknown piece."""

    def __init__(self, model: bytes, origin: str = "tokenizer") -> None:
        """
        Args:
            model: the serialised model.
            origin: where it came from, for messages.

        Raises:
            InputError: the bytes are not such a model.
        """
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
        except (RuntimeError, ValueError):
            raise InputError(f"{origin}: not a SentencePiece model") from None
        size = self._processor.get_piece_size()
        if size > MAX_VOCABULARY:
            raise InputError(f"{origin}: {size} pieces, more than {MAX_VOCABULARY}")
        if size < 3 or self._processor.unk_id() != UNKNOWN or not self._processor.is_control(BLANK):
            raise InputError(f"{origin}: its id 0 must be the blank and id 1 the unknown piece")
        try:
            self._pieces = [str(self._processor.id_to_piece(token)) for token in range(size)]
        except UnicodeDecodeError:
            raise InputError(f"{origin}: a piece of it is not UTF-8 text") from None
        # Scores tell the kind: ranks of merges (whole numbers) or log-probabilities.
        scores = [self._processor.get_score(token) for token in range(UNKNOWN + 1, size)]
        self.kind = "bpe" if all(float(score).is_integer() for score in scores) else "unigram"

    @property
    def vocab_size(self) -> int:
        return int(self._processor.get_piece_size())

    @property
    def pieces(self) -> list[str]:
        return list(self._pieces)

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._processor.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._processor.decode(self._check(tokens)))

    def save(self, folder: Path) -> None:
        write_atomically(folder / SPM_FILE, self._model)


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Learn a tokenizer from normalised texts; the same texts in the same order, the same bytes.

    ``config.vocab_size`` is the exact number of ids of bpe and unigram (blank and unknown
    included): the size asked for is the size given, never silently less.

    Raises:
        InputError: no text at all, or a vocabulary larger than the text supports or smaller than
            its alphabet; the message names the bound.
    """
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise InputError("tokenizer: there is no text to learn from")
    if config.kind == "char":
        return CharTokenizer(sorted(set().union(*map(set, kept))))
    if config.kind in ("bpe", "unigram"):
        return SentencePieceTokenizer(_train_sentencepiece(kept, config))
    raise InputError(f"tokenizer.kind = {config.kind!r}: choose one of char, bpe, unigram")


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a model folder.

    Raises:
        InputError: the folder holds no tokenizer, two of them, or one that is damaged.
    """
    path = tokenizer_file(folder)
    content = _read(path)
    if path.name == SPM_FILE:
        return SentencePieceTokenizer(content, origin=str(path))
    return _parse_characters(content, path)


def tokenizer_file(folder: Path) -> Path:
    """The one file in which a folder's tokenizer is.

    Raises:
        InputError: the folder holds no tokenizer, or two of them.
    """
    there = [folder / name for name in (SPM_FILE, CHAR_FILE) if (folder / name).is_file()]
    if len(there) == 2:
        raise InputError(f"{folder}: holds both {SPM_FILE} and {CHAR_FILE}; remove the stale one")
    if not there:
        raise InputError(f"{folder}: no tokenizer there ({SPM_FILE} or {CHAR_FILE})")
    return there[0]


def _train_sentencepiece(texts: list[str], config: TokenizerConfig) -> bytes:
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=written,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            hard_vocab_limit=True,
            # Our own normaliser has spoken: nothing is rewritten, squeezed or left out here.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            character_coverage=1.0,
            byte_fallback=False,
            max_sentence_length=1 << 24,
            # The padding piece is a control symbol that encoding never yields: it serves as blank.
            pad_id=BLANK,
            pad_piece=BLANK_PIECE,
            unk_id=UNKNOWN,
            unk_surface=UNKNOWN_TEXT,
            bos_id=-1,
            eos_id=-1,
            # More threads sum in another order.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(_explain(str(error), config)) from None
    return written.getvalue()


def _explain(message: str, config: TokenizerConfig) -> str:
    """SentencePiece's complaint about the vocabulary size in this package's words."""
    asked = f"tokenizer.vocab_size = {config.vocab_size}"
    if found := re.search(r"value <= (\d+)", message):
        return f"{asked}: too large for this text; the largest possible is {found.group(1)}"
    if found := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return (
            f"{asked}: smaller than the text's alphabet; the smallest possible is {found.group(1)}"
        )
    return (
        f"{asked}, kind {config.kind}: SentencePiece could not train: {' '.join(message.split())}"
    )


def _parse_characters(content: bytes, path: Path) -> CharTokenizer:
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):  # not UTF-8, not JSON, too long or too deep for its reader
        raise InputError(f"{path}: not valid JSON") from None
    if not isinstance(parsed, dict) or parsed.get("format") != _CHAR_FORMAT:
        raise InputError(f"{path}: not a character tokenizer (format {_CHAR_FORMAT!r})")
    characters = parsed.get("characters")
    if not isinstance(characters, str) or not characters:
        raise InputError(f"{path}: characters must be a non-empty text")
    if len(characters) > MAX_VOCABULARY:
        raise InputError(f"{path}: {len(characters)} characters, more than {MAX_VOCABULARY}")
    if len(set(characters)) != len(characters):
        raise InputError(f"{path}: a character is listed twice")
    if not is_unicode(characters):
        raise InputError(f"{path}: holds half a character (a surrogate)")
    return CharTokenizer(characters)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise InputError(f"{path}: a tokenizer has at most {MAX_TOKENIZER_BYTES} bytes")
        return read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from None
