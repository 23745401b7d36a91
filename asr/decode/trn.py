"""NIST trn files: one line per utterance, its words, then ``(speaker-utterance)``.

sclite reads a few characters as markup: ``{ a / b }`` alternatives, ``(a)`` optional words, ``@``
no word at all, ``a;b`` attributes, a backslash, ``;;`` a comment; and of an id what stands before
the first ``-`` as the speaker. Those are written as in web addresses, ``%7B`` for ``{``, so that
different words stay different and every count stays the same.

Score with ``sclite -s -e utf-8 -i rm -r ref.trn trn -h hyp.trn trn``: without ``-s`` sclite ignores
case, which here is the normaliser's business.
"""

from __future__ import annotations

from collections.abc import Sequence

from asr.decode.decoded import DecodedUtterance

_MARKUP = frozenset("{}()@;\\%*")


def trn_ids(utterances: Sequence[DecodedUtterance]) -> list[str]:
    """One id per utterance that begins with its speaker; ids that do so already are kept."""
    speakers = [_escape(utterance.speaker, _MARKUP | {"-"}) for utterance in utterances]
    ids = [_escape(utterance.id, _MARKUP) for utterance in utterances]
    pairs = list(zip(speakers, ids, strict=True))
    # All or none: prefixing some of them could make two of them equal.
    if all(id_.startswith(f"{speaker}-") for speaker, id_ in pairs):
        return ids
    return [f"{speaker}-{id_}" for speaker, id_ in pairs]


def trn_text(ids: Sequence[str], texts: Sequence[str]) -> str:
    """The content of a trn file."""
    lines = []
    for id_, text in zip(ids, texts, strict=True):
        words = [_escape(word, _MARKUP) for word in text.split()]
        lines.append(" ".join([*words, f"({id_})"]) + "\n")
    return "".join(lines)


def _escape(text: str, special: frozenset[str]) -> str:
    return "".join(
        "".join(f"%{byte:02X}" for byte in char.encode())
        if char in special or char.isspace() or not char.isprintable()
        else char
        for char in text
    )
