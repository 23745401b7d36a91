"""Yaml of strangers: numbers, texts, lists and mappings, at a cost that is linear in the length.

YAML's own reader lets a few lines stand for gigabytes (aliases), ends in a traceback at odd tags and
keeps the last of two equal keys. None of that is of use in a configuration, so it is refused.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from asr.errors import InputError

MAX_BYTES = 1 << 20
_MAX_DEPTH = 16
# Numbers of many digits take time that grows with the square of their length.
_MAX_DIGITS = 64

# Read as octal, hexadecimal, binary or sexagesimal numbers: 012 is 10, and 1:30 is 90.
_OTHER_NUMERAL = re.compile(r"[-+]?0[0-9xb]|.*[_:]", re.IGNORECASE | re.ASCII)
# What OmegaConf takes for "not set", so that the default would stand in its place.
_MISSING = "???"

_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset(f"{_PREFIX}{kind}" for kind in ("null", "bool", "int", "float", "str"))
_INT, _FLOAT = f"{_PREFIX}int", f"{_PREFIX}float"
_TIMESTAMP, _MERGE = f"{_PREFIX}timestamp", f"{_PREFIX}merge"


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.MarkedYAMLError(
                None, None, f"anchors and aliases (&{event.anchor}) are refused", event.start_mark
            )
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                None, None, f"maximum recursion depth is {_MAX_DEPTH}", event.start_mark
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        elif node.tag not in (f"{_PREFIX}seq", f"{_PREFIX}map"):
            raise yaml.MarkedYAMLError(None, None, f"{node.tag} is refused", node.start_mark)
        value = super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        if node.tag == _TIMESTAMP:  # after its own reader, which names dates that do not exist
            raise yaml.MarkedYAMLError(
                None, None, f"{node.value} is a date; a text needs quotes", node.start_mark
            )
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(None, None, "a key must be a text", key.start_mark)
            if key.tag == _MERGE:
                raise yaml.MarkedYAMLError(None, None, "<< is refused", key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"{key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_scalar(node: yaml.ScalarNode) -> None:
    reason = None
    if node.tag not in _TAGS and node.tag != _TIMESTAMP:
        reason = f"{node.tag} is refused"
    elif node.tag != f"{_PREFIX}str" and len(node.value) > _MAX_DIGITS:
        reason = f"a number of {len(node.value)} digits is refused"
    elif node.tag in (_INT, _FLOAT) and _is_misread(node):
        reason = f"{node.value} is refused: write numbers in plain decimal digits, texts in quotes"
    elif node.value == _MISSING:
        reason = f"{_MISSING!r} is refused: write a value, or leave the key out"
    elif any(char == "\0" or "\ud800" <= char <= "\udfff" for char in node.value):
        reason = f"{node.value!r} holds NUL or half a character (a surrogate)"
    if reason:
        raise yaml.MarkedYAMLError(None, None, reason, node.start_mark)


def _is_misread(node: yaml.ScalarNode) -> bool:
    """Tell whether YAML 1.1 may give another number than a reader of plain decimals sees."""
    if node.tag == _FLOAT:
        return "_" in node.value or ":" in node.value
    return _OTHER_NUMERAL.match(node.value) is not None


def parse_yaml(text: str) -> Any:
    """Return what one yaml document holds: None, bool, int, float, str, and lists and dicts of them.

    Raises:
        ValueError: it is not valid yaml, or refused; the message is one line.
    """
    try:
        return yaml.load(text, _Loader)
    # the others: what its readers of numbers and dates raise for a text with a wrong tag
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from None


def read_yaml(path: Path, what: str = "configuration") -> Any:
    """Return what a yaml file holds, see ``parse_yaml``.

    Raises:
        InputError: it cannot be read, is no regular file, is too large or not valid.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: cannot read {what}: not a file")
        if status.st_size > MAX_BYTES:
            raise InputError(
                f"{path}: a {what} has at most {MAX_BYTES} bytes, this has {status.st_size}"
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read {what}: {error.strerror}") from None
    try:
        return parse_yaml(content.decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError and dates that do not exist too
        raise InputError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from None
