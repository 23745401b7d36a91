"""Layers of yaml files and overrides as written, before their keys are interpreted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from asr.config.kinds import DEFAULT_KINDS, unread
from asr.config.schema import unread_heads
from asr.config.strict_yaml import parse_yaml, read_yaml
from asr.errors import InputError, warn
from asr.formats import OPTIONS, old_options, upgrade_options


def base_files() -> dict[str, Path]:
    """The package's own yamls by name."""
    folder = Path(str(resources.files("asr.conf")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_yaml_chain(
    path: Path, seen: tuple[Path, ...], follow_base: bool
) -> list[tuple[str, dict[str, Any]]]:
    path = path.resolve()
    if path in seen:
        raise InputError(f"{path}: `base:` names itself in a circle")
    content = read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: a configuration is `section: {{key: value}}`, not a {type(content).__name__}"
        )
    _refuse_interpolation(content, str(path))
    written_by_program = "format" in content
    old = {} if written_by_program else old_options(content)
    content = upgrade_options(content, str(path))
    if old and follow_base:  # a user's own file; one that a program wrote needs no change
        names = ", ".join(f"{before} is called {now} now" for before, now in old.items())
        warn(f"{path}: {names}")
    if not follow_base or written_by_program:
        content = _without_unread(content)
    base = content.pop("base", None)
    if base is None:
        return [(str(path), content)]
    if not follow_base:
        raise InputError(
            f"{path}: base: {base!r}: the configuration of a run or a model folder has no base"
        )
    below = read_yaml_chain(_find_base(base, path), (*seen, path), follow_base)
    return [*below, (str(path), content)]


def _without_unread(content: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the kinds and the heads do not read: older versions let it stand."""
    model = content.get("model")
    heads = unread_heads(model.get("heads") if isinstance(model, dict) else None)
    content = {name: part for name, part in content.items() if name not in heads}
    for section, default in DEFAULT_KINDS.items():
        part = content.get(section)
        if isinstance(part, dict):
            names = unread(section, part.get("kind", default))
            content[section] = {k: v for k, v in part.items() if k not in names}
    return content


def _find_base(name: Any, path: Path) -> Path:
    known = base_files()
    if isinstance(name, str) and name in known:
        return known[name]
    if isinstance(name, str) and (path.parent / name).is_file():
        return path.parent / name
    raise InputError(
        f"{path}: base: {name!r} is neither a file beside it nor one of {', '.join(known)}"
    )


def parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    parts = key.split(".")
    if not separator or len(parts) != 2 or not all(parts):
        raise InputError(
            f"override {text[:200]!r}: write it as section.key=value, for example train.epochs=3"
        )
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise InputError(
            f"override {text[:100]!r}: {value[:100]!r} is not a yaml value: {error}"
        ) from None
    if key in OPTIONS:  # a command that was written for an older version goes on
        warn(f"override {text[:200]!r}: {key} is called {OPTIONS[key]} now")
        parts = OPTIONS[key].split(".")
    layer = {parts[0]: {parts[1]: parsed}}
    _refuse_interpolation(layer, f"override {text[:200]!r}")
    return layer


def _refuse_interpolation(node: Any, origin: str) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _refuse_interpolation(key, origin)
            _refuse_interpolation(value, origin)
    elif isinstance(node, list):
        for value in node:
            _refuse_interpolation(value, origin)
    elif isinstance(node, str) and "${" in node:
        raise InputError(f"{origin}: {node!r}: interpolation is not allowed in a configuration")


def check_keys(layer: dict[Any, Any], known_keys: Sequence[str], origin: str) -> None:
    """Raise InputError where a layer holds anything but ``section: {key: value}`` of known keys."""
    known: dict[str, list[str]] = {}
    for dotted in known_keys:
        section, _, name = dotted.partition(".")
        known.setdefault(section, []).append(name)
    for section, values in layer.items():
        if section not in known:
            raise InputError(
                f"{origin}: unknown section {section!r}{_nearest(str(section), [*known])}"
            )
        if values is None:
            continue
        if not isinstance(values, dict):
            raise InputError(f"{origin}: {section}: expected keys and values, got {values!r}")
        for key in values:
            if key not in known[section]:
                dotted = f"{section}.{key}"
                if dotted in OPTIONS:
                    raise InputError(f"{origin}: {dotted} is called {OPTIONS[dotted]} now")
                raise InputError(f"{origin}: unknown key {dotted}{_nearest(dotted, known_keys)}")


def _nearest(word: str, words: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.4)
    return f"; did you mean {found[0]}?" if found else f"; known: {', '.join(words)}"
