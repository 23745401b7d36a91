"""Cards of the models in the box: what was measured and what they were trained on.

A card is the model's ``README.md``. Its figures stand in the metadata at its top and nowhere else;
size and SHA-256 sum are read from the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr import box
from asr.columns import in_columns
from asr.config.strict_yaml import parse_yaml
from asr.errors import InputError
from asr.files import file_hash, read_text, required
from asr.run_folder import CARD, WEIGHTS

_FENCE = "---\n"


@dataclass(frozen=True)
class ErrorRate:
    """A word error rate in percent, with the ends of its 95 % interval.

    Attributes:
        search: how it was decoded.
        unit: what the interval resamples: ``speakers`` or ``utterances``.
    """

    set: str
    search: str
    percent: float
    low: float
    high: float
    words: int
    speakers: int
    unit: str


@dataclass(frozen=True)
class BoxedCard:
    """What the card of a model in the box says.

    Attributes:
        license: of the weights, in the hub's words.
        measured: how the error rates and the real-time factor were.
        data: what it was trained on, each with hours and licence.
        text: the card without its metadata, Markdown.
    """

    folder: Path
    license: str
    language: str
    parameters: int
    error_rates: list[ErrorRate]
    real_time_factor: float
    measured: str
    training: str
    data: list[str]
    limits: list[str]
    text: str


def read_card(name: str) -> BoxedCard:
    """Read the card of a model in the box.

    Raises:
        InputError: no such model, or its card is damaged.
    """
    folder = box.folder(name)
    where = str(folder / CARD)
    before, fence, rest = read_text(folder / CARD).partition(_FENCE)
    head, closing, text = rest.partition(f"\n{_FENCE}")
    if before or not fence or not closing:
        raise InputError(f"{where}: no metadata between two lines of --- at its top")
    try:
        content = parse_yaml(head)
    except ValueError as error:
        raise InputError(f"{where}: not valid yaml: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: its metadata are no `key: value`")
    return BoxedCard(
        folder=folder,
        license=required(content, "license", str, where),
        language=required(content, "language", str, where),
        parameters=required(content, "parameters", int, where),
        error_rates=[_error_rate(item, where) for item in required(content, "wer", list, where)],
        real_time_factor=required(content, "real_time_factor", float, where),
        measured=required(content, "measured", str, where),
        training=required(content, "training", str, where),
        data=_texts(content, "training_data", where),
        limits=_texts(content, "limits", where),
        text=text.strip(),
    )


def describe(card: BoxedCard) -> str:
    """Return the figures of a model as lines for a terminal."""
    name = card.folder.name
    num_bytes = sum(file.stat().st_size for file in card.folder.iterdir())
    rows = [
        ["language", card.language],
        ["parameters", f"{card.parameters / 1e6:.1f} million"],
        ["size", f"{num_bytes / 1e6:.1f} MB"],
        *_labelled("WER % [95 %]", [_shown(rate) for rate in card.error_rates]),
        ["real-time factor", f"{card.real_time_factor:g}"],
        ["measured", card.measured],
        ["training", card.training],
        *_labelled("training data", card.data),
        ["licence", card.license],
        *_labelled("limits", card.limits),
        ["sha256", file_hash(card.folder / WEIGHTS)],
    ]
    title = f"{name} (default)" if name == box.DEFAULT else name
    return f"{title}\n\n{in_columns(rows, left={0, 1}, rule=False)}"


def _labelled(label: str, values: list[str]) -> list[list[str]]:
    """Rows of a list, the label beside the first."""
    return [["" if index else label, str(value)] for index, value in enumerate(values)]


def _shown(rate: ErrorRate) -> str:
    interval = f"[{rate.low:.2f}, {rate.high:.2f}] over {rate.unit}"
    where = f"{rate.set}, {rate.search}, {rate.words} words, {rate.speakers} speakers"
    return f"{rate.percent:.2f} {interval}: {where}"


def _texts(content: dict[str, Any], key: str, where: str) -> list[str]:
    found = required(content, key, list, where)
    for item in found:
        if not isinstance(item, str):
            raise InputError(f"{where}: {key!r} holds {item!r}, expected a text")
    return found


def _error_rate(item: Any, where: str) -> ErrorRate:
    if not isinstance(item, dict):
        raise InputError(f"{where}: 'wer' holds {item!r}, expected an object")
    low, high = (required(item, key, float, where) for key in ("low", "high"))
    return ErrorRate(
        set=required(item, "set", str, where),
        search=required(item, "search", str, where),
        percent=required(item, "percent", float, where),
        low=low,
        high=high,
        words=required(item, "words", int, where),
        speakers=required(item, "speakers", int, where),
        unit=required(item, "unit", str, where),
    )
