"""``run.json``: what `asr compare` and a reader want to know of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch

from asr.config import Config
from asr.files import read_json_object, write_atomically
from asr.model.recogniser import count_parameters
from asr.provenance import commit, environment, uncommitted, versions
from asr.run_folder import RunFolder
from asr.train.resuming import Change
from asr.train.setup import Setup

# What may be another when a run goes on.
_OF_A_START = (
    *("commit", "dirty", "diff", "command", "attention_backend"),
    *("num_threads", "num_processes", "versions", "environment"),
)


def write_run(exp: RunFolder, values: dict[str, Any]) -> None:
    """``run.json``: what `asr compare` and a reader want to know of a run."""
    write_atomically(exp.run, json.dumps(values, indent=2) + "\n")


def run_record(
    setup: Setup, config: Config, exp: RunFolder, command: str, num_processes: int
) -> dict[str, Any]:
    """The part of ``run.json`` that is known before training; what the checkout has beyond its commit
    goes into ``EXP/uncommitted.diff``."""
    revision, dirty = commit()
    return {
        "name": exp.root.name,
        "weighting": config.attention.weighting,
        "position": config.attention.position,
        "encoder": config.encoder.kind,
        "num_params": count_parameters(setup.net),
        "attention_backend": setup.net.attention_backend(),
        "normaliser": config.tokenizer.normaliser,
        "commit": revision,
        "dirty": dirty,
        "diff": exp.diff().name if dirty else None,
        "seed": config.train.seed,
        "epochs": config.train.epochs,
        "data": setup.data,
        "train_hours": round(float(setup.train.durations_s.sum()) / 3600, 3),
        "num_threads": torch.get_num_threads(),
        "num_processes": num_processes,
        "initialised": setup.initialised or None,
        "command": command,
        "versions": versions(),
        "environment": environment(),
    }


def resumed_record(
    exp: RunFolder, now: dict[str, Any], step: int, num_steps: int, changes: Sequence[Change] = ()
) -> dict[str, Any]:
    """How the run in ``exp`` began, with ``now`` under "resumed": what makes the steps after ``step``.

    Whoever asks which commit made these weights must find all of them. What an earlier start did
    after ``step`` is lost, and so is its record.

    Args:
        changes: options that lead to another result from here on.
    """
    if not exp.run.is_file():
        return now
    begun = read_json_object(exp.run)
    if step == num_steps:
        return begun
    starts = begun.get("resumed", [])
    before = [one for one in starts if one["after_step"] < step]
    going_on = {"after_step": step} | {key: now[key] for key in _OF_A_START}
    if going_on["dirty"]:
        going_on["diff"] = exp.diff(step).name
    # what a lost start had changed is still changed
    changed: dict[str, list[Any]] = {}
    for one in starts[len(before) :]:
        changed |= one.get("changed", {})
    for change in changes:
        changed[change.key] = [changed.get(change.key, [change.before])[0], change.now]
    if changed:
        going_on["changed"] = changed
    return begun | {"epochs": now["epochs"], "resumed": [*before, going_on]}


def write_diff(exp: RunFolder, record: dict[str, Any]) -> None:
    """The changes that ``run.json`` speaks of, where there are any."""
    name = record.get("resumed", [record])[-1]["diff"]
    if name:
        write_atomically(exp.root / name, uncommitted())
