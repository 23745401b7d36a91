"""`asr train --init-from`: weights of a model that is there already (fine-tuning)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from asr import config as configuration
from asr.config import Config
from asr.config.rules import attention_terms
from asr.errors import InputError
from asr.formats import upgrade_name
from asr.model.folder import CONFIG, WEIGHTS, find_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import Tokenizer, load_tokenizer, tokenizer_file
from asr.weights_file import WeightsFile


@dataclass(frozen=True)
class Start:
    """A model folder to begin from; ``changed`` says what its attention computed otherwise."""

    folder: Path
    config: Config
    tokenizer: Tokenizer
    weights: dict[str, Tensor]
    changed: list[str]


def read_start(path: Path, config: Config) -> Start:
    """The model folder, or that of an experiment.

    Raises:
        InputError: none there, damaged, or made for other features.
    """
    folder = find_model(path)
    weights = WeightsFile(folder / WEIGHTS, upgrade_name)
    for beside in (folder / CONFIG, tokenizer_file(folder)):
        weights.check_beside(beside)
    theirs = configuration.load([folder / CONFIG], follow_base=False)
    for field in dataclasses.fields(config.features):
        ours, those = (getattr(each.features, field.name) for each in (config, theirs))
        if ours != those:
            raise InputError(
                f"--init-from {path}: its features.{field.name} = {those!r}, here {ours!r}; "
                "the features must be the same"
            )
    ours, those = (attention_terms(each.attention) for each in (config, theirs))
    changed = [
        f"attention.{name} = {ours.get(name)!r} (there {those.get(name)!r})"
        for name in [*ours, *(name for name in those if name not in ours)]
        if ours.get(name) != those.get(name)
    ]
    return Start(folder, theirs, load_tokenizer(folder), weights.load(), changed)


def keeps_tokenizer(start: Start, config: Config) -> bool:
    """Tell whether this configuration asks for the kind of tokenizer that the model has."""
    ours, theirs = config.tokenizer, start.config.tokenizer
    same_size = ours.kind == "char" or ours.vocab_size == theirs.vocab_size
    return ours.kind == theirs.kind and ours.normaliser == theirs.normaliser and same_size


def take_weights(net: Recogniser, start: Start, tokenizer: Tokenizer) -> str:
    """Copy all but the heads that are not there; with another tokenizer all heads stay new.

    Returns:
        one line that says what was taken.

    Raises:
        InputError: a tensor is missing there, is too many, or has another shape.
    """
    same_tokenizer = tokenizer.pieces == start.tokenizer.pieces
    there = start.config.model.heads
    kept = [name for name in net.heads if same_tokenizer and name in there]

    def is_kept(name: str) -> bool:
        part, _, rest = name.partition(".")
        return part != "heads" or rest.partition(".")[0] in kept

    own = net.state_dict()
    wanted, offered = set(filter(is_kept, own)), set(filter(is_kept, start.weights))
    alike = (
        "encoder.*, attention.* and decoder.*"
        if "attention" in kept
        else "encoder.* and attention.*"
    )
    hint = f"{alike} must be as in {start.folder / CONFIG}"
    for name in sorted(wanted ^ offered):
        where = "is missing there" if name in wanted else "is not part of this configuration"
        raise InputError(f"--init-from {start.folder}: {name} {where}; {hint}")
    for name in sorted(wanted):
        ours, theirs = tuple(own[name].shape), tuple(start.weights[name].shape)
        if ours != theirs:
            raise InputError(
                f"--init-from {start.folder}: {name} is {theirs} there and {ours} here; {hint}"
            )
    net.load_state_dict({name: start.weights[name] for name in wanted}, strict=False)
    line = f"init        {len(wanted)} tensors from {start.folder}"
    if start.changed:  # the same weights mean something else then
        line += f", which computed attention otherwise: {', '.join(start.changed)}"
    if same_tokenizer:
        line += ", its tokenizer too"
    new = [name for name in net.heads if name not in kept]
    left = [name for name in there if name not in net.heads]
    if new:
        line += f"; new{'' if same_tokenizer else ', for another tokenizer'}: {_heads(new)}"
    return f"{line}; left there: {_heads(left)}" if left else line


def _heads(names: list[str]) -> str:
    return f"the head{'s' if len(names) > 1 else ''} {' and '.join(names)}"
