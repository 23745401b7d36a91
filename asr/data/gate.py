"""What a manifest may make Lhotse open: plain files and members of our shards, and nothing else.

Lhotse runs commands, opens pipes and downloads for whatever a manifest says. Every item passes here when
its manifest is opened, and every cut once more before its samples are loaded.
"""

from __future__ import annotations

from typing import Any

from lhotse.serialization import (
    CompositeIOBackend,
    PipeIOBackend,
    get_current_io_backend,
    set_current_io_backend,
)

from asr.data.members import Member
from asr.errors import InputError

# Lhotse's names of storage that is one local file or a folder of files.
_LOCAL_STORAGE = frozenset(
    {"lilcom_files", "numpy_files", "lilcom_hdf5", "numpy_hdf5", "chunked_lilcom_hdf5"}
    | {"lilcom_chunky", "pillow_files"}
)

_OTHER_KINDS = {
    "command": "a shell command",
    "memory": "in the manifest itself",
    "shar": "in a Shar archive",
}


class ForeignSource(InputError):
    """An item that would run, download or open something else than audio files."""


def check_item(item: Any) -> None:
    """Look through a Lhotse item, or its JSON, at any depth: tracks, transforms, custom fields.

    Raises:
        ForeignSource: names the item and the first thing in it that is refused.
        TypeError, ValueError: a malformed item.
    """
    if not isinstance(item, (dict, list)):
        item = item.to_dict()
    name = item.get("id") if isinstance(item, dict) else None
    waiting: list[Any] = [item]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            reason = _refusal(node)
            if reason:
                raise ForeignSource(
                    f"{name}: {reason}; a manifest may name audio files and members of shards only"
                )
            waiting += [value for value in node.values() if isinstance(value, (dict, list, tuple))]
        else:
            waiting += [value for value in node if isinstance(value, (dict, list, tuple))]


def _refusal(node: dict[str, Any]) -> str:
    """Why a dictionary is refused, or nothing."""
    if "storage_type" in node:
        return _storage_refusal(node)
    if "source" in node and "channels" in node:
        return _source_refusal(node)
    return ""


def _source_refusal(node: dict[str, Any]) -> str:
    """Why a source of audio is refused, or nothing.

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
        return ""
    member = Member.parse_text(source)
    if member is None:
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
