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


@dataclass(frozen=True)
class Weights:
    """score = acoustic + lm_weight lm + word_bonus words - unknown_penalty unknown words
    + neural_weight neural; natural logarithms."""

    lm_weight: float
    word_bonus: float
    unknown_penalty: float
    neural_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not math.isfinite(value):
                raise InputError(f"{name} = {value}: must be a finite number")
            if abs(value) > MAX_WEIGHT:
                raise InputError(f"{name} = {value:g}: must be at most {MAX_WEIGHT:g}")
            if value < 0 and name != "word_bonus":
                raise InputError(f"{name} = {value:g}: must be at least 0")


DEFAULT_WEIGHTS = Weights(lm_weight=0.5, word_bonus=1.0, unknown_penalty=5.0)


@dataclass(frozen=True)
class Tuned:
    """Weights that ``asr tune`` found for one language model.

    Attributes:
        lm, lm_sha256: name and content of the language model's file.
        first: of the search.
        neural, neural_sha256, second: the same of a neural model and of the rescoring with it.
        beam: prefixes kept while tuning.
        tuned_on: the manifest, and the error rate there, of words or of the characters (metric).
    """

    lm: str
    lm_sha256: str
    first: Weights
    beam: int
    tuned_on: str
    wer: float
    neural: str | None = None
    neural_sha256: str | None = None
    second: Weights | None = None
    metric: str = "wer"


def write_tuned(tuned: Tuned, folder: Path) -> Path:
    """Into the model folder, where decoding finds them; training the model anew removes them."""
    path = folder / SEARCH_WEIGHTS
    content = dataclasses.asdict(tuned)
    content = {tuned.metric if key == "wer" else key: content[key] for key in content}
    del content["metric"]
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def read_tuned(folder: Path) -> Tuned | None:
    """Read the weights that were tuned for this model; None where there are none.

    Raises:
        InputError: a damaged file.
    """
    path = folder / SEARCH_WEIGHTS
    if not path.is_file():
        return None
    content = read_yaml(path, "search setting")
    if not isinstance(content, dict):
        raise InputError(f"{path}: not valid yaml; tune again")
    where = str(path)
    first = _weights(required(content, "first", dict, where), where)
    second = field(content, "second", dict, where)
    metric = "cer" if "cer" in content else "wer"
    return Tuned(
        lm=required(content, "lm", str, where),
        lm_sha256=required(content, "lm_sha256", str, where),
        first=first,
        beam=required(content, "beam", int, where),
        tuned_on=required(content, "tuned_on", str, where),
        wer=required(content, metric, float, where),
        neural=field(content, "neural", str, where),
        neural_sha256=field(content, "neural_sha256", str, where),
        second=None if second is None else _weights(second, where),
        metric=metric,
    )


def _weights(content: dict[str, Any], where: str) -> Weights:
    names = [item.name for item in dataclasses.fields(Weights)]
    try:
        return Weights(**{name: required(content, name, float, where) for name in names})
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
