"""Training curves as a run logged them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import InputError
from asr.files import parse_object, read_text
from asr.run_folder import RunFolder
from asr.wer import WER, Metric

# What a picture's axis can hold; an infinite value is above, and NaN is not below.
_MAX_STEP, _MAX_VALUE = 1 << 53, 1e300


Points = list[tuple[int, float]]
"""(step, value)"""


@dataclass(frozen=True)
class Curves:
    """Curves of a run from ``log.jsonl``: (step, value) pairs in order.

    Attributes:
        valid_wer: dev error rate, of words or of characters.
    """

    name: str
    train_loss: Points
    valid_loss: Points
    valid_wer: Points


def read_curves(folder: Path, metric: Metric = WER) -> Curves:
    """The curves of EXP/log.jsonl, the error rate this one; points that are not finite are left out.

    Raises:
        InputError: it cannot be read, or a line is not a record.
    """
    path = RunFolder(folder).log
    lines = read_text(path).split("\n")
    # A run that was killed may have left its last line unfinished.
    records = [_record(line, f"{path}, line {k}") for k, line in enumerate(lines[:-1], 1) if line]
    return Curves(
        name=folder.resolve().name,
        train_loss=_series(records, "train", "loss"),
        valid_loss=_series(records, "valid", "loss"),
        valid_wer=_series(records, "valid", metric.name),
    )


def _record(line: str, where: str) -> dict[str, Any]:
    record = parse_object(line, where)
    step = record.get("step")
    if type(step) is not int or not 0 <= step < _MAX_STEP:
        raise InputError(f"{where}: not a record with a step")
    return record


def _series(records: Sequence[dict[str, Any]], kind: str, key: str) -> Points:
    return [
        (record["step"], float(record[key]))
        for record in records
        if record.get("kind") == kind
        and isinstance(record.get(key), (int, float))
        and abs(record[key]) <= _MAX_VALUE
    ]
