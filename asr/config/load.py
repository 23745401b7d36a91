"""A configuration from yaml files and overrides, checked; and what an option may be, in words.

``load()`` merges defaults < base yaml < yaml < command line into frozen dataclasses. Past it there is
no dict and no OmegaConf object: each component takes its own sub-config.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr.config.kinds import KINDS, unread
from asr.config.layers import check_keys, parse_override, read_yaml_chain
from asr.config.rules import refusal
from asr.config.schema import HEAD_SECTIONS, Config, unread_heads, walk
from asr.errors import InputError
from asr.formats import FORMAT

Layers: TypeAlias = "Sequence[tuple[str, dict[str, Any]]]"
"""Where settings are from, and they themselves by section and name."""


def load(
    files: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    follow_base: bool = True,
    begun: Config | None = None,
) -> Config:
    """Defaults < each yaml in order < ``section.key=value`` overrides.

    In place of the defaults stands ``begun``, the configuration of a run that goes on: what nobody
    says stays as it was, also where a newer version has another default.

    A yaml, or the overrides together, that choose a kind (of features, of encoder) or heads take back
    what was said before them to others: options that these do not read are at their defaults again.

    A yaml may name a ``base:`` (another yaml, relative to it, or one of the package's own by name),
    unless ``follow_base`` is false: the configuration that a run or a model folder keeps stands
    alone. An option that a yaml has under an older version's name is an ``InputWarning``.

    Raises:
        InputError: no such file, not yaml, an unknown key (the nearest known one is named), a value
            of the wrong type, out of range or not among the choices, or a ``${...}`` interpolation
            (refused: a stranger's configuration must not read the environment).
    """
    given = [[layer] for file in files for layer in read_yaml_chain(Path(file), (), follow_base)]
    given.append([(f"override {text[:200]!r}", parse_override(text)) for text in overrides])
    merged = OmegaConf.structured(begun or Config)
    for layers in given:
        for origin, layer in layers:
            check_keys(layer, [key for key, _, _ in walk(Config())], origin)
        for section in KINDS:
            defaults = vars(getattr(Config(), section))
            for kind in _given(layers, section, "kind")[-1:]:
                unsaid = {name: defaults[name] for name in unread(section, kind)}
                merged = OmegaConf.merge(merged, {section: unsaid})
        for heads in _given(layers, "model", "heads")[-1:]:
            unsaid = {name: vars(HEAD_SECTIONS[name]) for name in unread_heads(heads)}
            merged = OmegaConf.merge(merged, unsaid)
        for origin, layer in layers:
            _check_switches(layer, origin)
            merged = _merge(merged, layer, origin)
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    _check_values(config, _origins(given[:-1], given[-1]))
    return config


def _origins(files: Sequence[Layers], overrides: Layers) -> dict[str, str]:
    """Return the file that has the last word on each option that is said; empty: an override has it."""
    layers = [*itertools.chain(*files), *(("", layer) for _, layer in overrides)]
    return {
        f"{section}.{name}": origin
        for origin, layer in layers
        for section, part in layer.items()
        for name in part or ()
    }


def _given(layers: Layers, section: str, name: str) -> list[Any]:
    """Return the values of an option in these layers, in order."""
    return [layer[section][name] for _, layer in layers if name in (layer.get(section) or {})]


def _check_switches(layer: dict[str, Any], origin: str) -> None:
    """Raise InputError where true or false is given as a number above 1, which OmegaConf takes."""
    switches = [key for key, _, item in walk(Config()) if item.type == "bool"]
    for key in switches:
        for value in _given([(origin, layer)], *key.split(".")):
            if isinstance(value, int) and value not in (0, 1):
                raise InputError(f"{origin}: {_of_another_type(key, value)}")


def _merge(merged: Any, layer: dict[str, Any], origin: str) -> Any:
    # a section of which every line is a comment is None
    written = {section: part for section, part in layer.items() if part is not None}
    try:
        return OmegaConf.merge(merged, OmegaConf.create(written))
    except (OmegaConfBaseException, TypeError):  # the latter: a mapping in place of a list
        values = {(name, key): part[key] for name, part in written.items() for key in part}
        if len(values) == 1:
            ((section, key), value) = next(iter(values.items()))
            raise InputError(f"{origin}: {_of_another_type(f'{section}.{key}', value)}") from None
    for (section, key), value in values.items():  # one by one, to find the wrong one
        merged = _merge(merged, {section: {key: value}}, origin)
    return merged


def _of_another_type(key: str, value: Any) -> str:
    """Say what an option must be, given a value that it cannot."""
    (item,) = (item for known, _, item in walk(Config()) if known == key)
    is_list = str(item.type).startswith("list")
    if item.metadata["choices"] and not is_list:
        expected = f"choose one of {allowed(item)}"
    else:
        expected = f"expected {'' if item.type == 'bool' else 'a '}{allowed(item)}"
    brackets = ", in brackets" if is_list and not isinstance(value, list) else ""
    return f"{key} = {repr(value)[:200]}: {expected}{brackets}"


def dump(config: Config) -> str:
    """The whole configuration as yaml, every key present."""
    content = {"format": FORMAT, **dataclasses.asdict(config)}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def explain(item: dataclasses.Field[Any]) -> str:
    """An option's meaning and allowed values."""
    meaning = str(item.metadata["help"])
    if item.metadata["choices"]:
        return f"{meaning}; one of {allowed(item)}"
    if _bounds(item):
        return f"{meaning}; {_bounds(item)}"
    return meaning


def allowed(item: dataclasses.Field[Any]) -> str:
    """Describe what an option may be: its choices, or its type and bounds."""
    kind = _TYPE_NAMES[str(item.type)]
    if item.metadata["choices"]:
        names = ", ".join(map(str, item.metadata["choices"]))
        return f"list of {names}" if kind.startswith("list") else names
    return f"{kind} {_bounds(item)}" if _bounds(item) else kind


_TYPE_NAMES = {
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "str": "text",
    "list[int]": "list of whole numbers",
    "list[float]": "list of numbers",
    "list[str]": "list of texts",
}


def _bounds(item: dataclasses.Field[Any]) -> str:
    low, high = item.metadata["low"], item.metadata["high"]
    return "" if low is None else f"from {_plain(low)} to {_plain(high)}"


def _plain(bound: float) -> str:
    """Spell a number exactly, without an exponent where it is a whole one of at most 15 digits."""
    is_whole = abs(bound) < 1e15 and bound == int(bound)
    return str(int(bound)) if is_whole else repr(bound)


def _check_values(config: Config, origins: dict[str, str]) -> None:
    """Raise InputError for a value that cannot be, with the file where it stands; see ``_origins``."""

    def refuse(text: str, *keys: str) -> NoReturn:
        found = {origins[key] for key in keys if key in origins}
        where = found.pop() if len(found) == 1 else ""
        raise InputError(f"{where}: {text}" if where else text)

    for key, value, item in walk(config):
        values = value if isinstance(value, list) else [value]
        choices, low, high = (item.metadata[name] for name in ("choices", "low", "high"))
        for one in values:
            if isinstance(one, (list, dict)):
                refuse(_of_another_type(key, value), key)
            if choices is not None and one not in choices:
                names = [str(choice) for choice in choices]
                hint = difflib.get_close_matches(str(one), names, n=1)
                meant = f"; did you mean {hint[0]}?" if hint else ""
                refuse(f"{key} = {one!r}: choose one of {', '.join(names)}{meant}", key)
            if isinstance(one, float) and one != one:
                refuse(f"{key} = {one!r}: must be a number", key)
            if low is not None and one < low:
                refuse(f"{key} = {one!r}: must be at least {_plain(low)}", key)
            if high is not None and one > high:
                refuse(f"{key} = {one!r}: must be at most {_plain(high)}", key)
    reason = refusal(config)
    if reason:
        refuse(reason, *(key for key, _, _ in walk(config) if key in reason))
