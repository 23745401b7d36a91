"""The gate before what a manifest makes Lhotse open: plain files and members of our shards alone.

Lhotse runs commands, opens pipes and downloads for whatever a manifest says. Every item passes here when
its manifest is opened, and every cut once more before its samples are loaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from lhotse.audio import Recording
from lhotse.cut import MonoCut
from lhotse.serialization import (
    CompositeIOBackend,
    PipeIOBackend,
    get_current_io_backend,
    set_current_io_backend,
)

from asr.data.store.members import Member
from asr.errors import InputError
from asr.files import is_unicode, spell_out

# Lhotse's names of storage that is one local file or a folder of files.
_LOCAL_STORAGE = frozenset(
    {"lilcom_files", "numpy_files", "lilcom_hdf5", "numpy_hdf5", "chunked_lilcom_hdf5"}
    | {"lilcom_chunky", "pillow_files"}
)

# Lhotse's transforms of samples. Others may be registered by whatever else is installed.
_TRANSFORMS = frozenset(
    {"Clipping", "Compress", "DereverbWPE", "LoudnessNormalization", "Narrowband", "Resample"}
    | {"ReverbWithImpulseResponse", "Speed", "Tempo", "Volume"}
)
# Numbers beyond these ask for any memory or time; silence and mixtures are made in memory, whole:
# 4.6 hours at 16 kHz, 1 GB.
_LARGEST_ARGUMENT = 1e6
_LARGEST = {"max_T60": 10.0, "sr": 2e5, "iterations": 100, "n_fft": 1 << 16}
_SLOWEST, _FASTEST = 0.1, 10.0
_MOST_SAMPLES = 1 << 28
_MOST_TAPS = 1 << 26
_CHANGE_LENGTH = ("Speed", "Tempo")
_DEEPEST = 100  # lists and objects in one another

_OTHER_KINDS = {
    "command": "a shell command",
    "memory": "in the manifest itself",
    "shar": "in a Shar archive",
}


class ForeignSource(InputError):
    """An item that would run, download or open something else than audio files."""


def parse_line(line: bytes) -> Any:
    """Parse the JSON of an item, of which nothing is too deep or no text.

    Raises:
        ValueError, RecursionError: no JSON, or see ``check_values``.
    """
    item = json.loads(line)
    # few lines have as many brackets or spell such characters
    if line.count(b"[") + line.count(b"{") > _DEEPEST or b"\\ud" in line.lower():
        check_values(item)
    return item


def check_values(item: Any) -> None:
    """Check that an item can be written as it was read: Python, Lhotse and UTF-8 have their limits.

    Raises:
        ValueError: lists and objects more than 100 deep, or half a character (a surrogate).
    """
    waiting = [(item, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, str) and not is_unicode(node):
            raise ValueError(f"holds half a character (a surrogate): {spell_out(node)[:60]!r}")
        if isinstance(node, _NESTED):
            if depth == _DEEPEST:
                raise ValueError(f"lists and objects more than {_DEEPEST} deep")
            waiting += [(value, depth + 1) for value in node]
            if isinstance(node, dict):
                waiting += [(value, depth + 1) for value in node.values()]


def check_item(item: Any) -> None:
    """Look through a Lhotse item, or its JSON, at any depth: tracks, transforms, custom fields.

    Raises:
        ForeignSource: names the item and the first thing in it that is refused.
        TypeError, ValueError: a malformed item.
    """
    if not isinstance(item, (dict, list)):
        if type(item) is MonoCut and _is_plain_cut(item):
            return
        item = item.to_dict()
    if _is_plain(item):
        return
    name = item.get("id") if isinstance(item, dict) else None
    # with each whether it belongs to a transform, whose audio Lhotse loads by itself
    waiting: list[tuple[Any, bool]] = [(item, False)]
    while waiting:
        node, in_transform = waiting.pop()
        values = node
        if isinstance(node, dict):
            if "name" in node and "kwargs" in node:
                in_transform = True
            reason = _refusal(node, in_transform)
            if reason:
                raise ForeignSource(
                    f"{name}: {reason}; a manifest may name audio files and members of shards only"
                )
            values = node.values()
        waiting += [(value, in_transform) for value in values if isinstance(value, _NESTED)]


_NESTED = (dict, list, tuple)
# The fields of a cut of one plain recording, in which nothing can be nested.
_CUT = frozenset({"id", "type", "start", "duration", "channel", "supervisions", "recording"})
_RECORDING = frozenset({"id", "sources", "sampling_rate", "num_samples", "duration", "channel_ids"})
_SOURCE = frozenset({"type", "channels", "source"})
_SUPERVISION = frozenset(
    {"id", "recording_id", "start", "duration", "channel", "text", "language", "speaker", "gender"}
)


def _is_plain(item: Any) -> bool:
    """Return whether this is a cut of audio files by absolute path and nothing else, as most are.

    A quarter of the time of a look at everything.
    """
    if type(item) is not dict or not item.keys() <= _CUT:
        return False
    recording, supervisions = item.get("recording"), item.get("supervisions")
    if type(recording) is not dict or type(supervisions) is not list:
        return False
    sources = recording.get("sources")
    if type(sources) is not list or not recording.keys() <= _RECORDING:
        return False
    return all(
        type(one) is dict
        and one.keys() <= _SOURCE
        and one.get("type") == "file"
        and _is_local(one.get("source"))
        for one in sources
    ) and all(type(one) is dict and one.keys() <= _SUPERVISION for one in supervisions)


def _is_local(source: object) -> bool:
    return type(source) is str and source.startswith("/") and "://" not in source


def _is_plain_cut(cut: MonoCut) -> bool:
    """Return the same of the object, whose dictionary takes as long to make as a file to open."""
    recording = cut.recording
    return (
        type(recording) is Recording
        and not (cut.custom or cut.features or recording.transforms)
        and not any(part.custom or part.alignment for part in cut.supervisions)
        and all(
            one.type == "file" and one.video is None and _is_local(one.source)
            for one in recording.sources
        )
    )


def _refusal(node: dict[str, Any], in_transform: bool) -> str:
    """Return why a dictionary is refused, or nothing.

    Raises:
        TypeError, ValueError: a malformed one, or one that asks for any memory.
    """
    # no key says that a dictionary is nothing else as well
    if "storage_type" in node and (reason := _storage_refusal(node)):
        return reason
    if "source" in node and "channels" in node and (reason := _source_refusal(node, in_transform)):
        return reason
    if isinstance(node.get("transforms"), (list, tuple)):
        rate = node.get("sampling_rate") or 16000
        slower = 1.0
        for transform in node["transforms"]:
            if reason := _transform_refusal(transform, rate):
                return reason
            if transform["name"] in _CHANGE_LENGTH:  # Volume has a factor too
                slower /= transform["kwargs"]["factor"]
        if not 1 / _FASTEST <= slower <= 1 / _SLOWEST:
            raise ValueError(f"transforms that make it {slower:.3g} times as long")
    if isinstance(node.get("tracks"), (list, tuple)):
        _check_tracks(node["tracks"])
    return ""


def _transform_refusal(transform: dict[str, Any], rate: int) -> str:
    name, arguments = transform["name"], transform["kwargs"]
    if name not in _TRANSFORMS:
        return f"a transform {str(name)[:80]!r}"
    if arguments.get("codec") == "lpc10":  # looks for its library by running programs
        return "a transform of the codec 'lpc10'"
    generator = arguments.get("rir_generator") or {}
    for key, value in [*arguments.items(), *generator.items()]:
        largest = _LARGEST.get(key, _LARGEST_ARGUMENT)
        if isinstance(value, (int, float)) and not (abs(value) <= largest or "seed" in key):
            raise ValueError(f"a transform {name} with {key} = {value}")
    if name in _CHANGE_LENGTH and not _SLOWEST <= arguments["factor"] <= _FASTEST:
        raise ValueError(f"a transform {name} with factor = {arguments['factor']}")
    if name == "Speed":
        _check_resampling(round(rate * arguments["factor"]), rate)
    if name == "Resample":
        _check_resampling(arguments["source_sampling_rate"], arguments["target_sampling_rate"])
    return ""


def _check_resampling(source: int, target: int) -> None:
    """Refuse a ratio whose filters take more memory than the sound: torchaudio holds one for each
    phase, and 16000 to 16001 Hz has 16001 of them."""
    shared = math.gcd(source, target)
    if min(source, target) <= 0 or source // shared * (target // shared) > _MOST_TAPS:
        raise ValueError(f"resampling from {source} to {target} Hz")


def _check_tracks(tracks: Sequence[dict[str, Any]]) -> None:
    """Refuse a mixture that ends too late or has too much in it: all of it is made in memory."""
    total = 0.0
    for track in tracks:
        cut = track["cut"]
        rate = (cut.get("recording") or cut).get("sampling_rate", 0)
        length = max(cut.get("duration", 0.0) * rate, cut.get("num_samples") or 0)
        total += length
        num_samples = max(total, track.get("offset", 0.0) * rate + length)
        if not num_samples <= _MOST_SAMPLES:
            raise ValueError(f"a mixture of {num_samples:.3g} samples, at most {_MOST_SAMPLES}")


def _source_refusal(node: dict[str, Any], in_transform: bool) -> str:
    """Return why a source of audio is refused, or nothing.

    Raises:
        TypeError, ValueError: a malformed one, which is no danger.
    """
    kind, source = node.get("type"), node["source"]
    if not isinstance(kind, str) or not isinstance(source, (str, bytes)):
        raise TypeError(f"a source of type {kind!r} with {type(source).__name__}")
    shown = repr(source[:80])
    if kind in _OTHER_KINDS:
        return f"its audio is {_OTHER_KINDS[kind]} ({shown})"
    if kind not in ("file", "url") or not isinstance(source, str):
        raise ValueError(f"a source of type {kind!r}")  # for which Lhotse knows nothing to do
    if source.startswith("pipe:"):
        return f"its audio is a pipe ({shown})"
    if kind == "file":
        return f"its audio is at an address ({shown})" if "://" in source else ""
    member = Member.parse_text(source)
    if member is None or in_transform:
        return f"its audio is at an address ({shown})"
    return "" if member.is_of_a_store() else f"its shard is {member.shard[:80]!r}"


def _storage_refusal(node: dict[str, Any]) -> str:
    kind = node["storage_type"]
    if not isinstance(kind, str):
        raise TypeError(f"storage of type {kind!r}")
    if kind not in _LOCAL_STORAGE:
        return f"features or arrays of storage type {kind!r}"
    for field in ("storage_path", "storage_key"):
        value = str(node.get(field) or "")
        if value.startswith("pipe:") or "://" in value:
            return f"features or arrays at {value[:80]!r}"
    return ""


def open_no_pipes() -> None:
    """Take from Lhotse's file opening, for this process, what runs a path as a command."""
    backend = get_current_io_backend()
    if isinstance(backend, CompositeIOBackend):
        kept = [one for one in backend.backends if not isinstance(one, PipeIOBackend)]
        set_current_io_backend(CompositeIOBackend(kept))
