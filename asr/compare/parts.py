"""WER by utterance length, by speaker and by noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from asr.compare.comparison import Part
from asr.compare.stats.paired import Group
from asr.errors import InputError

# Utterances are sorted by length or noise and cut into so many parts of about as many words.
_NUM_PARTS = 4
# Names of a signal-to-noise ratio in dB among a cut's or a supervision's custom fields.
NOISE_FIELDS = ("snr_db", "snr")
_MAX_NOISE_DB = 1e6


def parts_of(group: Group, names: Sequence[str], noise_db: dict[str, float]) -> list[Part]:
    """Parts by length, by noise where every utterance's is known, and by speaker."""
    durations = [utterance.duration_s for utterance in group.utterances]
    parts = _sorted_parts(group, names, "length", durations, lambda value: f"{value:.1f} s")
    ids = [utterance.id for utterance in group.utterances]
    if all(id_ in noise_db for id_ in ids):
        values = [noise_db[id_] for id_ in ids]
        parts += _sorted_parts(group, names, "noise", values, lambda value: f"{value:.1f} dB")
    speakers = np.array([utterance.speaker for utterance in group.utterances])
    for speaker in np.unique(speakers):
        chosen_u = speakers == speaker
        parts.append(_part(group, names, "speaker", str(speaker), (None, None), chosen_u))
    return parts


def read_noise_db(cuts: str | None) -> dict[str, float]:
    """Signal-to-noise ratio by utterance from a manifest; empty where it is gone or says nothing."""
    from asr.data.store.gate import ForeignSource
    from asr.data.store.manifest import read_cuts

    if cuts is None or not Path(cuts).is_file():
        return {}
    found = {}
    try:
        manifest = read_cuts(cuts)
    except ForeignSource:
        raise
    except InputError:
        return {}
    for cut in manifest:
        custom = dict(cut.custom or {})
        for supervision in cut.supervisions:
            custom |= supervision.custom or {}
        for field in NOISE_FIELDS:
            value = custom.get(field)
            # of a clean or an empty recording the ratio can be infinite, or nothing at all
            if isinstance(value, (int, float)) and abs(value) < _MAX_NOISE_DB:
                found[cut.id] = float(value)
    return found


def _sorted_parts(
    group: Group,
    names: Sequence[str],
    by: str,
    values: Sequence[float],
    shown: Callable[[float], str],
) -> list[Part]:
    """Equal parts in the order of a quantity; equal values stay together."""
    value_u = np.asarray(values, dtype=np.float64)
    edges = np.unique(np.quantile(value_u, np.linspace(0, 1, _NUM_PARTS + 1), method="lower"))
    if len(edges) < 3:
        return []
    part_u = np.searchsorted(edges[1:-1], value_u, side="right")
    parts = []
    for number in range(len(edges) - 1):
        chosen_u = part_u == number
        low, high = float(value_u[chosen_u].min()), float(value_u[chosen_u].max())
        label = f"{shown(low)} to {shown(high)}"
        parts.append(_part(group, names, by, label, (low, high), chosen_u))
    return parts


def _part(
    group: Group,
    names: Sequence[str],
    by: str,
    label: str,
    bounds: tuple[float | None, float | None],
    chosen_u: np.ndarray,
) -> Part:
    words = int(group.words_u[chosen_u].sum())
    errors_m = group.errors_um[chosen_u].sum(axis=0)
    return Part(
        set_name=group.set_name,
        by=by,
        label=label,
        low=bounds[0],
        high=bounds[1],
        num_utterances=int(chosen_u.sum()),
        reference_words=words,
        wers={
            names[member]: float(errors) / words if words else None
            for member, errors in zip(group.members, errors_m, strict=True)
        },
    )
