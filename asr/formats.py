"""Names of older versions in configurations, weights and checkpoints: no other module knows them.

A configuration that a run or a model folder keeps says its ``format``; one without it is read by the
names of format 1, which a user's own yaml may still hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

from asr.errors import InputError

FORMAT = 2

# Format 2: each head has a section, and a place of its own among the weights.
OPTIONS = {
    "encoder.intermediate_ctc": "ctc.intermediate_layers",
    "encoder.intermediate_ctc_weight": "ctc.intermediate_weight",
    "train.cr_ctc": "ctc.consistency",
}
_WEIGHTS = {"head.": "heads.ctc.linear."}

Value = TypeVar("Value")


def upgrade_options(content: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return ``{section: {key: value}}`` with the names of today and without ``format``.

    Raises:
        InputError: written by a newer version, or an option under its old name and its new one.
    """
    sections = {
        name: dict(part) if isinstance(part, dict) else part for name, part in content.items()
    }
    version = sections.pop("format", 1)
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise InputError(f"{origin}: format {_yaml(version)}: this version reads 1 to {FORMAT}")
    for old, new in old_options(sections).items() if version == 1 else ():
        (section, key), (target, name) = old.split("."), new.split(".")
        if sections.get(target) is None:  # a section of which every line is a comment
            sections[target] = {}
        there = sections[target]
        if not isinstance(there, dict):
            raise InputError(f"{origin}: {target}: expected keys and values, got {there!r}")
        if name in there:
            raise InputError(f"{origin}: {old} is called {new} now; give it once")
        there[name] = sections[section].pop(key)
    return sections


def _yaml(value: Any) -> str:
    """A value as a yaml file has it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]


def old_options(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the old names of options in ``{section: {key: value}}``, each with its name today."""
    found = {}
    for old, new in OPTIONS.items():
        section, key = old.split(".")
        part = content.get(section)
        if isinstance(part, dict) and key in part:
            found[old] = new
    return found


def upgrade_name(name: str) -> str:
    """Return the name of a weight today."""
    return _renamed(name, _WEIGHTS)


def upgrade_weights(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Return weights by their names of today.

    Raises:
        InputError: a weight under its old name and its new one.
    """
    for name in weights:
        if is_old(name) and upgrade_name(name) in weights:
            raise InputError(f"{name} and {upgrade_name(name)} are one weight: the file is damaged")
    return {upgrade_name(name): value for name, value in weights.items()}


def renamed_in(tree: Any, old: bool) -> Any:
    """Return a checkpoint's content by the names of weights of format 1 (``old``) or of today.

    Names are keys of dicts and texts in lists; tensors stay the same objects.
    """
    table = {new: before for before, new in _WEIGHTS.items()} if old else _WEIGHTS
    if isinstance(tree, dict):
        return {
            _renamed(key, table) if isinstance(key, str) else key: renamed_in(value, old)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [renamed_in(value, old) for value in tree]
    return _renamed(tree, table) if isinstance(tree, str) else tree


def is_old(name: str) -> bool:
    """Return whether a weight has a name of format 1."""
    return upgrade_name(name) != name


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for before, after in table.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
