"""Weights of a language model in a search, as tuned for a model, in its folder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr.config.strict_yaml import read_yaml
from asr.errors import InputError
from asr.files import field, required, write_atomically
from asr.run_folder import SEARCH_WEIGHTS

MAX_WEIGHT = 1e4

BEAM = "beam"
OTHERS = "searches"
"""Where the file keeps what was tuned for other searches than CTC's beam search."""


@dataclass(frozen=True)
class Weights:
    """score = acoustic + lm_weight lm + word_bonus words - unknown_penalty unknown words
    + neural_weight neural; natural logarithms.

    With ``ctc_weight``, acoustic = ctc_weight ctc + (1 - ctc_weight) decoder.
    """

    lm_weight: float
    word_bonus: float
    unknown_penalty: float
    neural_weight: float = 0.0
    ctc_weight: float | None = None

    def __post_init__(self) -> None:
        if self.ctc_weight is not None and not 0.0 <= self.ctc_weight <= 1.0:
            raise InputError(f"ctc_weight = {self.ctc_weight:g}: must be from 0 to 1")
        for name, value in dataclasses.asdict(self).items():
            if value is None:
                continue
            if not math.isfinite(value):
                raise InputError(f"{name} = {value}: must be a finite number")
            if abs(value) > MAX_WEIGHT:
                raise InputError(f"{name} = {value:g}: must be at most {MAX_WEIGHT:g}")
            if value < 0 and name != "word_bonus":
                raise InputError(f"{name} = {value:g}: must be at least 0")


DEFAULT_WEIGHTS = Weights(lm_weight=0.5, word_bonus=1.0, unknown_penalty=5.0)


@dataclass(frozen=True)
class Tuned:
    """Weights that ``asr tune`` found for one search with one language model.

    Attributes:
        lm, lm_sha256: name and content of the language model's file; None: without one.
        first: of the search.
        neural, neural_sha256, second: the same of a neural model and of the rescoring with it.
        beam: prefixes kept while tuning.
        tuned_on: the manifest, and the error rate there, of words or of the characters (metric).
        name: of the search: ``BEAM``, or what ``tuned_name`` calls it.
    """

    lm: str | None
    lm_sha256: str | None
    first: Weights
    beam: int
    tuned_on: str
    wer: float
    neural: str | None = None
    neural_sha256: str | None = None
    second: Weights | None = None
    metric: str = "wer"
    name: str = BEAM


def tuned_name(head: str, search: str) -> str:
    """Return what a head's search is called where tuned weights are kept."""
    return f"{head}-beam" if search == "beam" and head != "ctc" else search


def write_tuned(tuned: Tuned, folder: Path) -> Path:
    """Write weights into the model folder, where decoding finds them, beside those of other searches.

    Training the model anew removes them.
    """
    path = folder / SEARCH_WEIGHTS
    content = dataclasses.asdict(tuned)
    content = {tuned.metric if key == "wer" else key: content[key] for key in content}
    for key in ("metric", "name"):
        del content[key]
    for key in ("first", "second"):
        if content[key] and content[key]["ctc_weight"] is None:
            del content[key]["ctc_weight"]
    # CTC's beam search is the file itself, as it was before others could be tuned
    before = _content(path)
    others = before.pop(OTHERS, {})
    if tuned.name == BEAM:
        whole = content
    else:
        whole, others = before, others | {tuned.name: content}
    if others:
        whole = whole | {OTHERS: others}
    write_atomically(path, yaml.safe_dump(whole, sort_keys=False, allow_unicode=True))
    return path


def read_tuned(folder: Path, name: str = BEAM) -> Tuned | None:
    """Read the weights that were tuned for a search of this model; None where there are none.

    Raises:
        InputError: a damaged file.
    """
    path = folder / SEARCH_WEIGHTS
    content, where = _content(path), str(path)
    others = content.pop(OTHERS, {})
    if name != BEAM:
        content = others.get(name, {})
        if not isinstance(content, dict):
            raise InputError(f"{path}: {OTHERS}.{name} = {content!r}: not weights; tune again")
    if not content:
        return None
    lm_field = required if name == BEAM else field  # CTC's beam search is tuned with one alone
    first = _weights(required(content, "first", dict, where), where)
    second = field(content, "second", dict, where)
    metric = "cer" if "cer" in content else "wer"
    return Tuned(
        lm=lm_field(content, "lm", str, where),
        lm_sha256=lm_field(content, "lm_sha256", str, where),
        first=first,
        beam=required(content, "beam", int, where),
        tuned_on=required(content, "tuned_on", str, where),
        wer=required(content, metric, float, where),
        neural=field(content, "neural", str, where),
        neural_sha256=field(content, "neural_sha256", str, where),
        second=None if second is None else _weights(second, where),
        metric=metric,
        name=name,
    )


def _content(path: Path) -> dict[str, Any]:
    """Return the file's content, empty where there is none."""
    if not path.is_file():
        return {}
    content = read_yaml(path, "search setting")
    if not isinstance(content, dict) or not isinstance(content.get(OTHERS, {}), dict):
        raise InputError(f"{path}: not valid yaml; tune again")
    return content


def _weights(content: dict[str, Any], where: str) -> Weights:
    names = [item.name for item in dataclasses.fields(Weights) if item.name != "ctc_weight"]
    try:
        return Weights(
            **{name: required(content, name, float, where) for name in names},
            ctc_weight=field(content, "ctc_weight", float, where),
        )
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
