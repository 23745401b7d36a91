"""Factors: the options in which trainings differ, seed apart, found from their configurations."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from asr.compare.comparison import Factor
from asr.compare.experiment import Experiment
from asr.compare.stats.paired import Group
from asr.config import CONTENT, FREE, Config, walk
from asr.config.rules import (
    attention_terms,
    ctc_terms,
    encoder_terms,
    feature_terms,
    tokenizer_terms,
)
from asr.config.schema import unread_heads
from asr.printable import printable

MIN_RUNS = 2
# By section: the options that enter what is computed, with their values. An option that the chosen
# weighting or kind does not read makes no difference; a section that is not here reads all of its own.
TERMS: dict[str, Callable[[Any], dict[str, object]]] = {
    "features": feature_terms,
    "attention": attention_terms,
    "encoder": encoder_terms,
    "ctc": ctc_terms,
    "tokenizer": tokenizer_terms,
}
# Factors that are called by a word and not by their key.
WEIGHTING = "weighting"
_SHORT = {"attention.weighting": WEIGHTING, "attention.position": "position"}
# Options whose values speak for themselves; any other is NAME=VALUE.
_BARE = {*_SHORT, "encoder.kind"}
# Longer ones are cut: all keys of a factor stand in the notes and in the JSON.
_MAX_PARTS, _MAX_LABEL = 3, 60

Type = tuple[str, ...]
"""A level of each factor; trainings of one type differ in the seed alone."""
_Cell = tuple[str | None, ...]
"""Values of the options that vary at all; None where an option is not read."""


@dataclass(frozen=True)
class Design:
    """The factors of some experiments, and where each experiment stands.

    Attributes:
        levels: of each experiment, a tuple that is empty where its options are not known.
        types: the same, None for an experiment that belongs to no type.
    """

    factors: list[Factor]
    levels: list[Type]
    types: list[Type | None]
    notes: list[str]


def one_of(factor: str) -> str:
    """``position``, ``value of encoder.dim``"""
    return f"value of {factor}" if "." in factor else factor


def many_of(factor: str) -> str:
    """``positions``, ``values of encoder.dim``"""
    return f"values of {factor}" if "." in factor else f"{factor}s"


def of_all(factor: str) -> str:
    """``positions``, ``encoder.dim``"""
    return factor if "." in factor else many_of(factor)


def find_factors(experiments: Sequence[Experiment], names: Sequence[str]) -> Design:
    """Find the factors: the options in which types differ, those that always vary together as one.

    A type is what was trained with two seeds or more. Where there are not two of them, single trainings
    count too, so that they have names and colours.
    """
    values = _values(experiments)
    keys = _varying([one for one in values if one])
    notes = []
    # a run without a configuration is known by the words of its run.json alone: among those that tell
    # all of their options it may be of any type
    bare = [k for k, one in enumerate(experiments) if values[k] and not one.settings]
    if any(one.settings for one in experiments) and bare:
        values = [{} if k in bare else one for k, one in enumerate(values)]
        listed = ", ".join(names[k] for k in bare)
        if unknown := [key for key in keys if key not in _BARE]:
            listed += f" ({', '.join(unknown)})"
        keys = _varying([one for one in values if one])
        notes.append(f"in no type, since options are unknown without a config.yaml: {listed}")
    cells = [tuple(one.get(key) for key in keys) if one else None for one in values]
    seeds: dict[_Cell, set[int | None]] = {}
    for cell, experiment in zip(cells, experiments, strict=True):
        if cell is not None:
            seeds.setdefault(cell, set()).add(_seed(experiment))
    repeated = [cell for cell, found in seeds.items() if len(found) >= MIN_RUNS]
    chosen = repeated if len(repeated) > 1 else list(seeds)
    groups, joined = _grouped(keys, chosen)
    if not groups and seeds:
        groups = [[key] for key in _SHORT]
    labels = [_labels(group, values, experiments) for group in groups]
    levels = [tuple(by_run[k] for by_run in labels) if one else () for k, one in enumerate(values)]
    types = [one if cell in chosen else None for one, cell in zip(levels, cells, strict=True)]
    trained = list(dict.fromkeys(one for one in types if one is not None))
    factors = [
        Factor(_name(group), group, list(dict.fromkeys(one[number] for one in trained)))
        for number, group in enumerate(groups)
    ]
    if repeated:
        notes += joined + _alone(keys, cells, repeated, names)
    return Design(factors, levels, types, notes)


def types_of(
    group: Group, design: Design, experiments: Sequence[Experiment], names: Sequence[str]
) -> tuple[dict[Type, list[int]], list[str]]:
    """(columns of the group's systems by type, notes): types with two runs or more, in order.

    A second run of one type and seed is no replicate and is left out.
    """
    found: dict[Type, dict[int | None, int]] = {}
    notes: list[str] = []
    for column, member in enumerate(group.members):
        one = design.types[member]
        if one is None:
            continue
        seeds = found.setdefault(one, {})
        seed = _seed(experiments[member])
        if seed in seeds:
            notes.append(
                f"{group.set_name}: {names[member]} has the type and the seed of "
                f"{names[group.members[seeds[seed]]]}: not counted as another training"
            )
        else:
            seeds[seed] = column
    return {one: [*own.values()] for one, own in found.items() if len(own) >= MIN_RUNS}, notes


def _seed(experiment: Experiment) -> int | None:
    """Return the seed by ``run.json``, or by the configuration where that does not say."""
    configured = experiment.settings.get("train.seed")
    given = experiment.run.seed
    return configured if given is None and isinstance(configured, int) else given


def _words(experiment: Experiment) -> dict[str, str | None]:
    """Options that ``run.json`` names too."""
    run = experiment.run
    words = (run.weighting, run.position, run.encoder)
    return dict(
        zip(("attention.weighting", "attention.position", "encoder.kind"), words, strict=True)
    )


def _values(experiments: Sequence[Experiment]) -> list[dict[str, str]]:
    """Return the values that each training computes with, by key; empty where they are not known.

    An option that an older version did not write has its default; one that was written alike everywhere
    is the same, whatever follows from it. Data are the same where they hold the same, wherever they lie.
    """
    free = {*_options(FREE), "train.seed"}
    base = {key: None for one in experiments for key in one.settings}
    base |= {key: value for key, value, _ in walk(Config())}
    words = [{key: w for key, w in _words(one).items() if w is not None} for one in experiments]
    written = [
        {**base, **one.settings, **own} if one.settings else {}
        for one, own in zip(experiments, words, strict=True)
    ]
    equal = {key for key in base if len({str(each[key]) for each in written if each}) == 1}
    found = []
    for one, own, settings in zip(experiments, words, written, strict=True):
        if settings:
            read = {key: str(value) for key, value in _read(settings).items() if key not in free}
            read |= {key: str(settings[key]) for key in equal & read.keys()}
            found.append({printable(key)[:_MAX_LABEL]: value for key, value in read.items()})
        else:
            found.append(own if one.run.weighting and one.run.position else {})
    for key in _options(CONTENT):
        holding = [k for k, values in enumerate(found) if values.get(key, "[]") != "[]"]
        if all(key in experiments[k].contents for k in holding):
            for k in holding:
                found[k][key] = experiments[k].contents[key]
    return found


def _read(settings: dict[str, Any]) -> dict[str, object]:
    """Return the settings that are read."""
    unread = unread_heads(settings["model.heads"])
    found = {key: settings[key] for key in settings if key.partition(".")[0] not in unread}
    for section, terms in TERMS.items():
        if section in unread:
            continue
        own = {key: settings[key] for key in settings if key.startswith(f"{section}.")}
        read = terms(SimpleNamespace(**{key.partition(".")[2]: own[key] for key in own}))
        found = {key: value for key, value in found.items() if key not in own}
        found |= {f"{section}.{name}": value for name, value in read.items()}
    return found


@functools.cache
def _options(on_resume: str = "") -> list[str]:
    """Keys in order, weighting and position first; all, or those of which another value means this."""
    keys = {key: item.metadata["on_resume"] for key, _, item in walk(Config())}
    return [key for key in {**_SHORT, **keys} if on_resume in ("", keys[key])]


def _varying(values: Sequence[dict[str, str]]) -> list[str]:
    """Keys with two values or more among those that read them, weighting and position first."""
    known: dict[str, set[str]] = {}
    for one in values:
        for key, value in one.items():
            known.setdefault(key, set()).add(value)
    places = {key: number for number, key in enumerate(_options())}
    return sorted(
        (key for key, found in known.items() if len(found) > 1),
        key=lambda key: (places.get(key, len(places)), key),
    )


def _grouped(keys: Sequence[str], chosen: Sequence[_Cell]) -> tuple[list[list[str]], list[str]]:
    """(the keys of each factor, notes on those that have several).

    Keys that split the types alike are one factor. A key that some level of a factor does not read
    says nothing by itself there, so it is one factor with the first such; where the others together say
    what it is, it is none.
    """
    cells = [
        {key: value for key, value in zip(keys, cell, strict=True) if value is not None}
        for cell in chosen
    ]
    varying = _varying(cells)
    nested = [key for key in varying if any(key not in cell for cell in cells)]
    groups = _merged([[key] for key in varying if key not in nested], cells)
    beside = [key for group in groups for key in group]
    following = [
        key
        for key in nested
        if _follows(key, beside, cells) and not any(_follows(key, group, cells) for group in groups)
    ]
    for key in nested:
        for group in groups if key not in following else ():
            readers: dict[_Cell, bool] = {}
            for cell in cells:
                level = tuple(cell.get(one) for one in group)
                readers[level] = readers.get(level, False) or key in cell
            if not all(readers.values()):
                group.append(key)
                break
        else:
            if key not in following:
                groups.append([key])
    groups = sorted(_merged(groups, cells), key=lambda group: varying.index(group[0]))
    notes = [
        f"{key} follows from {' and '.join(beside)}: it is no factor of its own, and no difference can "
        f"be put down to it alone"
        for key in following
    ]
    for group in (group for group in groups if len(group) > 1):
        within = [key for key in group if key in nested]
        beside = [key for key in group if key not in nested]
        if len(beside) > 1:
            notes.append(
                f"{' and '.join(beside)} always vary together: they are one factor, {_name(group)}, and "
                f"no difference can be put down to one of them alone"
            )
        if within:
            notes.append(
                f"{' and '.join(within)}: not read with every {one_of(_name(beside or group[:1]))}, so "
                f"that they are one factor, {_name(group)}"
            )
    return groups, notes


def _follows(key: str, others: Sequence[str], cells: Sequence[dict[str, str]]) -> bool:
    """Tell whether these options say what the value of another is, or that it is not read."""
    values: dict[_Cell, set[str | None]] = {}
    for cell in cells:
        values.setdefault(tuple(cell.get(one) for one in others), set()).add(cell.get(key))
    return all(len(found) == 1 for found in values.values())


def _merged(groups: list[list[str]], cells: Sequence[dict[str, str]]) -> list[list[str]]:
    found: dict[_Cell, list[str]] = {}
    for group in groups:
        levels = [tuple(cell.get(key) for key in group) for cell in cells]
        split = tuple(str(levels.index(level)) for level in levels)
        found.setdefault(split, []).extend(group)
    return [*found.values()]


def _name(group: Sequence[str]) -> str:
    more = [f"{len(group) - _MAX_PARTS} more"] if len(group) > _MAX_PARTS else []
    return "+".join([*(_SHORT.get(key, key) for key in group[:_MAX_PARTS]), *more])


def _labels(
    group: Sequence[str], values: Sequence[dict[str, str]], experiments: Sequence[Experiment]
) -> list[str]:
    """Name each experiment's level; no two levels have the same name."""
    names: dict[_Cell, str] = {}
    read = {key for one in values for key in one}
    found = []
    for one, experiment in zip(values, experiments, strict=True):
        level = tuple(one.get(key) for key in group)
        if level not in names:
            own = [key for key in group[:_MAX_PARTS] if key in one]
            parts = [_shown(key, one[key], experiment, read) for key in own]
            text = printable("+".join(parts)) or "none of them"
            text = text if len(text) <= _MAX_LABEL else f"{text[:_MAX_LABEL]}..."
            alike = sum(re.sub(r" #\d+$", "", name) == text for name in names.values())
            names[level] = f"{text} #{alike + 1}" if alike else text
        found.append(names[level])
    return found


def _shown(key: str, value: str, experiment: Experiment, read: Set[str]) -> str:
    """Show an option's value with its name, and its section where another option is called so too.

    Args:
        read: every option that some training reads.
    """
    several = experiment.settings.get(key)
    if isinstance(several, list) and all(isinstance(item, str) for item in several):
        if key in _options(CONTENT):
            several = [re.sub(r"(\.cuts)?\.jsonl(\.gz)?$", "", Path(path).name) for path in several]
        value = ",".join(several)
    if key in _BARE:
        return value
    name = key.rpartition(".")[2]
    is_alone = sum(one.rpartition(".")[2] == name for one in read) < 2
    return f"{name if is_alone else key}={value}"


def _alone(
    keys: Sequence[str],
    cells: Sequence[_Cell | None],
    repeated: Sequence[_Cell],
    names: Sequence[str],
) -> list[str]:
    """Name the trainings that are in no type, and the options in which no type is like them."""
    told = []
    for name, cell in zip(names, cells, strict=True):
        if cell is not None and cell not in repeated:
            own = [
                key
                for number, key in enumerate(keys)
                if cell[number] not in {one[number] for one in repeated}
            ]
            told.append(f"{name} ({', '.join(own)})" if own else name)
    what = "in no type, since nothing like it was trained with another seed"
    return [f"{what}: {'; '.join(told)}"] if told else []
