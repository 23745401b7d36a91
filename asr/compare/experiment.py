"""Contents of an experiment folder: ``run.json`` and every decoded set under ``decode/``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.config.strict_yaml import read_yaml
from asr.decode.decoded import DecodedUtterance, Decoding, bounded_field, name_field, read_decoded
from asr.decode.score import utterance_counts
from asr.errors import InputError
from asr.files import field, read_json_object, required
from asr.formats import upgrade_options
from asr.run_folder import WEIGHTS, DecodedFolder, RunFolder
from asr.weights_sums import weights_sum
from asr.wer import WER, ErrorCounts, Metric

# Larger than any that is true, and short in a table.
_MAX_PARAMS, _MAX_SPEED, _MAX_CER, _MAX_SEED = 10**15, 1e9, 1e9, 2**63 - 1

# Of decode.json, what decides hypotheses; and of those what tuning chooses for each system.
_WAY = (
    "head",
    "search",
    "beam",
    "lm_sha256",
    "neural_sha256",
    "weights",
    "hotwords",
    "hotword_bonus",
)
_CHUNKS = ("chunk", "left_chunks")
_WEIGHTS = ("lm_weight", "word_bonus", "unknown_penalty", "ctc_weight", "rescoring")


@dataclass(frozen=True)
class Run:
    """A record of how a model came about; what an older ``run.json`` does not say is None.

    Attributes:
        revision: the commit that trained it, short, with + where the checkout had more; several where
            the run was resumed with another.
    """

    name: str
    weighting: str | None
    position: str | None
    encoder: str | None
    num_params: int | None
    attention_backend: str | None
    normaliser: str | None
    commit: str | None
    dirty: bool | None
    revision: str | None
    seed: int | None
    command: str | None
    train_audio_s_per_s: float | None


@dataclass(frozen=True)
class ScoredSet:
    """A decoded set with the error counts of each of its utterances.

    Attributes:
        counts: of the words, or characters, of ``metric``.
        cer: character error rate, a fraction; None without characters, and in older files.
        way: what decides hypotheses beside model and sound, as ``decode.json`` has it; without weights
            that were tuned, which are each system's own.
    """

    decoding: Decoding
    utterances: list[DecodedUtterance]
    counts: list[ErrorCounts]
    cer: float | None = None
    metric: Metric = WER
    way: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """Run with its decoded sets.

    Attributes:
        settings: the training's configuration by ``section.key``; empty where it is not there.
        contents: what the manifests of an option held, as a fingerprint; of those that ``run.json`` has.
        sets: by the name of their folder under ``decode/``, in sorted order.
        joined: the same, of sets of joined utterances (``asr join --to-s``), which are not in ``sets``.
        left_out: why a folder under ``decode/`` is not among them.
    """

    folder: Path
    run: Run
    settings: dict[str, Any]
    contents: dict[str, str]
    sets: dict[str, ScoredSet]
    joined: dict[str, ScoredSet]
    left_out: list[str]


def read_experiment(folder: Path, metric: Metric = WER) -> Experiment:
    """Read what is compared of an experiment, by this error rate.

    Raises:
        InputError: no such folder, no ``run.json``, a file that is malformed, or a ``score.json``
            that belongs to other hypotheses.
    """
    if folder.is_file():
        raise InputError(f"{folder}: a file, not an experiment folder (EXP/*/ names folders alone)")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    run = _read_run(folder)
    sets: dict[str, ScoredSet] = {}
    joined: dict[str, ScoredSet] = {}
    left_out = []
    decoded = RunFolder(folder).decode
    for path in sorted(decoded.iterdir()) if decoded.is_dir() else []:
        if not path.is_dir():
            continue
        if DecodedFolder(path).score.is_file():
            scored = read_scored_set(path, metric)
            (joined if scored.decoding.joined else sets)[path.name] = scored
        else:
            left_out.append(f"{run.name}: {path} is not scored (asr score {path}), left out")
    if not sets and not joined:
        left_out.append(f"{run.name}: no scored set under {decoded}")
    about = (_read_settings(folder), _read_contents(folder))
    return Experiment(folder, run, *about, sets, joined, left_out)


def outdated_sets(experiment: Experiment) -> list[str]:
    """Name the sets decoded with other weights than the model has now; none where either is unknown."""
    recorded = {
        name: scored.decoding.model_sha256
        for name, scored in (experiment.sets | experiment.joined).items()
        if scored.decoding.model_sha256 is not None
    }
    try:
        now = weights_sum(RunFolder(experiment.folder).model / WEIGHTS) if recorded else None
    except InputError:  # no longer there, or damaged
        return []
    return [name for name, before in recorded.items() if before != now]


def _read_contents(folder: Path) -> dict[str, str]:
    content = read_json_object(RunFolder(folder).run).get("data")
    return {
        key: str(held["fingerprint"])
        for key, held in (content if isinstance(content, dict) else {}).items()
        if isinstance(held, dict) and "fingerprint" in held
    }


def _read_settings(folder: Path) -> dict[str, Any]:
    path = RunFolder(folder).config
    if not path.is_file():
        return {}
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        found = type(content).__name__
        raise InputError(f"{path}: expected sections with settings, found a {found}")
    return {
        f"{section}.{key}": value
        for section, values in upgrade_options(content, str(path)).items()
        if isinstance(values, dict)
        for key, value in values.items()
    }


def _read_run(folder: Path) -> Run:
    path = RunFolder(folder).run
    if not path.is_file():
        raise InputError(f"{folder}: no run.json in it, so not an experiment folder of `asr train`")
    content, where = read_json_object(path), str(path)
    return Run(
        name=name_field(content, "name", where) or folder.resolve().name,
        weighting=name_field(content, "weighting", where),
        position=name_field(content, "position", where),
        encoder=name_field(content, "encoder", where),
        num_params=bounded_field(content, "num_params", int, where, _MAX_PARAMS),
        attention_backend=_backends(content, where),
        normaliser=field(content, "normaliser", str, where),
        commit=field(content, "commit", str, where),
        dirty=field(content, "dirty", bool, where),
        revision=_revision(content, where),
        seed=bounded_field(content, "seed", int, where, _MAX_SEED),
        command=field(content, "command", str, where),
        train_audio_s_per_s=bounded_field(content, "train_audio_s_per_s", float, where, _MAX_SPEED),
    )


def _backends(content: dict[str, Any], where: str) -> str | None:
    """Return the attention backend of each start of the training that records one."""
    found = [field(start, "attention_backend", str, where) for start in _starts(content, where)]
    return ", ".join(dict.fromkeys(filter(None, found))) or None


def _starts(content: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """The record of the first start, and those under which the training went on."""
    starts = [content, *(field(content, "resumed", list, where) or [])]
    for start in starts:
        if not isinstance(start, dict):
            raise InputError(f"{where}: 'resumed' holds {start!r}, expected objects")
    return starts


def _revision(content: dict[str, Any], where: str) -> str | None:
    found = []
    for start in _starts(content, where):
        commit = field(start, "commit", str, where)
        if commit is not None:
            found.append(commit[:7] + ("+" if field(start, "dirty", bool, where) else ""))
    return ", ".join(dict.fromkeys(found)) or None


def read_scored_set(folder: Path, metric: Metric = WER) -> ScoredSet:
    """One decoded and scored folder, its errors counted for this error rate.

    Raises:
        InputError: a file is missing or malformed, or ``score.json`` is of other hypotheses.
    """
    utterances, decoding = read_decoded(folder)
    counts = utterance_counts(utterances)
    path = DecodedFolder(folder).score
    content = read_json_object(path)
    total = sum(counts, ErrorCounts())
    recorded = tuple(
        required(content, key, int, str(path))
        for key in ("reference_words", "substitutions", "deletions", "insertions")
    )
    counted = (total.reference_words, total.substitutions, total.deletions, total.insertions)
    if recorded != counted:
        raise InputError(f"{path}: not of the hypotheses beside it; run `asr score {folder}` again")
    cer = bounded_field(content, "cer", float, str(path), _MAX_CER)
    if metric is not WER:
        counts = utterance_counts(utterances, metric)
    way = _way(read_json_object(DecodedFolder(folder).decoding))
    return ScoredSet(decoding, utterances, counts, cer, metric, way)


def _way(content: dict[str, Any]) -> dict[str, Any]:
    keys = (*_WAY, *_CHUNKS, *(() if content.get("weights") == "tuned" else _WEIGHTS))
    return {key: content[key] for key in keys if content.get(key) is not None}
