"""Utterances one after the other as one: what a model must have heard that is to read long audio.

Trained on single utterances a model knows one voice at one level in all that it attends to, silence at
both ends, no text that goes on, and no length beyond its utterances'; in a window of a longer recording
it is lost. Longer training utterances are the cure (Lu et al. 2021, "Input length matters", arXiv
2110.03841), and joined ones will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from lhotse.cut import Cut, MixedCut, MixTrack
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy

from asr.data.draws import stable_hash
from asr.data.speakers import UNKNOWN_SPEAKER
from asr.data.store.index import CutList, cut_speaker
from asr.errors import InputError

# The custom field in which a cut of a whole joined set says what the set was made of, and its size.
_NOTE = "joined"
_FIELDS = {"of": str, "to_s": float, "num_utterances": int}
# The longest duration that a record of a decoded set may name.
_MAX_S = 1e9


def join_cuts(
    cuts: Sequence[Cut], max_s: float, share: float, max_pause_s: float, seed: int
) -> list[Cut]:
    """The same utterances, some of them joined to longer ones; each is in the result once.

    An utterance is drawn to be joined with probability ``share``. The drawn ones follow one another
    in random order, so that voices, levels and noises change as in no recording; a joined one ends
    where the next would exceed a length that is drawn for it, uniform in 0 ... ``max_s``, so that every
    length occurs and what is left of the drawn ones stays single.

    Args:
        max_s: the longest joined utterance, in seconds.
        share: of the utterances, 0 to 1.
        max_pause_s: half of the joined follow at once, half after a silence of up to this many seconds,
            uniform.
        seed: the same seed gives the same result.

    Returns:
        Single cuts as they are and joined ones (``FIRST ID+NUMBER OF OTHERS``), in the order of
        their first utterances.

    Raises:
        InputError: cuts of different sampling rates or numbers of channels, or mixed already.
    """
    _check(cuts)
    rng = np.random.default_rng(stable_hash("join", seed))
    drawn_n = rng.random(len(cuts)) < share
    rows = [[(index, 0.0)] for index in np.flatnonzero(~drawn_n).tolist()]
    end_s = limit_s = 0.0
    for index in rng.permutation(np.flatnonzero(drawn_n)).tolist():
        duration_s = cuts[index].duration
        pause_s = max(0.0, rng.uniform(-max_pause_s, max_pause_s))
        if end_s > 0.0 and end_s + pause_s + duration_s <= limit_s:
            rows[-1].append((index, pause_s))
            end_s += pause_s + duration_s
        else:
            rows.append([(index, 0.0)])
            end_s, limit_s = duration_s, rng.uniform(0.0, max_s)
    rows.sort(key=lambda row: row[0][0])
    return [_joined([(cuts[index], pause_s) for index, pause_s in row]) for row in rows]


def join_speakers(cuts: Sequence[Cut], to_s: float) -> list[Cut]:
    """Join each speaker's utterances, in the order of their ids, to about ``to_s`` seconds.

    A speaker's utterances are shared out evenly, cut between utterances where an even share ends: no
    joined one is a short rest, and a speaker with less than ``to_s`` is one. Nothing lies between them.
    Each notes the duration, the fingerprint of ``cuts`` and their number, see ``joined_from``.

    Raises:
        InputError: an utterance of no known speaker; see also ``join_cuts``.
    """
    _check(cuts)
    by_speaker: dict[str, list[Cut]] = {}
    for cut in sorted(cuts, key=lambda cut: (cut_speaker(cut), cut.id)):
        if cut_speaker(cut) in ("", UNKNOWN_SPEAKER):
            raise InputError(f"cut {cut.id}: of no known speaker, so it can be joined to no other")
        by_speaker.setdefault(cut_speaker(cut), []).append(cut)
    rows: list[list[tuple[Cut, float]]] = []
    for own in by_speaker.values():
        whole_s = sum(cut.duration for cut in own)
        share_s = whole_s / max(1, round(min(whole_s / to_s, 1e6)))
        shares: dict[int, list[tuple[Cut, float]]] = {}
        before_s = 0.0
        for cut in own:
            shares.setdefault(int((before_s + cut.duration / 2) / share_s), []).append((cut, 0.0))
            before_s += cut.duration
        rows += shares.values()
    fingerprint = CutList(cuts).fingerprint()
    note = {_NOTE: {"of": fingerprint, "to_s": float(to_s), "num_utterances": len(rows)}}
    for row in rows:
        first = row[0][0]
        row[0] = (fastcopy(first, custom={**(first.custom or {}), **note}), 0.0)
    return [_joined(row) for row in rows]


def joined_from(cuts: Iterable[Cut]) -> dict[str, Any] | None:
    """Return the note that ``join_speakers`` left: ``of``, a fingerprint, and ``to_s``, seconds.

    None where not all of the cuts have the same, or not all of the joined ones are there: a part of
    them has other words. A manifest's own field of that name is none of ours.
    """
    notes = [_note(cut) for cut in cuts]
    note = notes[0]
    if not isinstance(note, dict) or {key: type(value) for key, value in note.items()} != _FIELDS:
        return None
    if any(other != note for other in notes) or note["num_utterances"] != len(notes):
        return None
    return {"of": note["of"], "to_s": note["to_s"]} if 0 < note["to_s"] <= _MAX_S else None


def _note(cut: Cut) -> Any:
    first = cut.tracks[0].cut if isinstance(cut, MixedCut) else cut
    return (first.custom or {}).get(_NOTE) if isinstance(first, DataCut) else None


def _joined(row: list[tuple[Cut, float]]) -> Cut:
    """Cuts, each after a pause, as one."""
    first = row[0][0]
    if len(row) == 1:
        return first
    rate = first.sampling_rate
    tracks, at = [], 0
    for cut, pause_s in row:
        # in whole samples, so that joined audio is the utterances' own, sample by sample
        at += round(pause_s * rate)
        tracks.append(MixTrack(cut=cut, offset=at / rate))
        at += cut.num_samples
    return MixedCut(id=f"{first.id}+{len(row) - 1}", tracks=tracks)


def _check(cuts: Sequence[Cut]) -> None:
    first = cuts[0]
    for cut in cuts:
        if not isinstance(cut, DataCut) or cut.recording is None:
            raise InputError(f"cut {cut.id}: a {type(cut).__name__} cannot be joined to others")
        for what, its, others in (
            ("sampling rate", cut.sampling_rate, first.sampling_rate),
            ("number of channels", cut.num_channels, first.num_channels),
        ):
            if its != others:
                raise InputError(
                    f"cut {cut.id}: {what} {its}, and cut {first.id}: {others}: only like can be "
                    "joined to like; give each its own manifest"
                )
