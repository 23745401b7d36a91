"""Experiments that never were: run.json and decoded sets with chosen error rates."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from asr.decode.score import score_folder
from asr.formats import FORMAT

RUN = {
    "weighting": "softmax",
    "position": "alibi",
    "encoder": "conformer",
    "num_params": 18_312_345,
    "attention_backend": "sdpa",
    "normaliser": "lowercase-apostrophe",
    "commit": "0123456789",
    "dirty": False,
    "seed": 1,
    "command": "asr train --config conf/x.yaml",
    "train_audio_s_per_s": 123.4567,
    "train_wall_s": 600.0,
    "versions": {"torch": "2.11.0"},
    "epochs": 30,
}


def sentences(count: int, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    return [[rng.choice("abcdefgh") for _ in range(rng.randint(3, 15))] for _ in range(count)]


def misheard(reference: list[str], rate: float, rng: random.Random) -> list[str]:
    heard: list[str] = []
    for word in reference:
        draw = rng.random() / rate
        heard += [] if draw < 0.3 else [rng.choice("abcdefgh") if draw < 0.8 else word]
        heard += ["x"] if 0.8 < draw < 1 else []
    return heard


def write_experiment(exp: Path, **run: Any) -> Path:
    exp.mkdir(parents=True, exist_ok=True)
    content = {"name": exp.name, **RUN, **run}
    known = {key: value for key, value in content.items() if value is not None}
    (exp / "run.json").write_text(json.dumps(known))
    return exp


def write_decoded(
    exp: Path,
    set_name: str,
    rate: float,
    *,
    references: list[list[str]] | None = None,
    num_speakers: int = 12,
    seed: int = 0,
    **decoding: Any,
) -> list[tuple[str, list[str], list[str]]]:
    """Decode and score a set that never was; returns (speaker, reference, hypothesis)."""
    folder = exp / "decode" / set_name
    folder.mkdir(parents=True)
    rng = random.Random(seed)
    rows = [
        (f"s{k % num_speakers}", reference, misheard(reference, rate, rng))
        for k, reference in enumerate(sentences(60) if references is None else references)
    ]
    lines = [
        {
            "id": f"u{k}",
            "speaker": speaker,
            "duration_s": 2.0,
            "reference": " ".join(reference),
            "hypothesis": " ".join(hypothesis),
            "score": -1.0,
        }
        for k, (speaker, reference, hypothesis) in enumerate(rows)
    ]
    (folder / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "set": set_name,
        "search": "greedy",
        "beam": None,
        "normaliser": "lowercase-apostrophe",
        "num_utterances": len(lines),
        "rtf": 0.0213,
        "device": "cpu",
    }
    (folder / "decode.json").write_text(json.dumps({**content, **decoding}))
    score_folder(folder)
    return rows


def cells(text: str, name: str) -> list[str]:
    """Cells of the first line of a terminal table that begins with a name."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return re.split(r"\s{2,}", line)


def seeds_of(
    folder: Path, weighting: str, position: str, rate: float, count: int = 3
) -> list[Path]:
    """Trainings of a type."""
    folders = []
    for seed in range(1, count + 1):
        name = f"{weighting}-{position}-{seed}"
        exp = write_experiment(folder / name, weighting=weighting, position=position, seed=seed)
        write_decoded(exp, "test", rate, seed=hash_of(name))
        folders.append(exp)
    return folders


def seeds_with(
    folder: Path, name: str, rate: float, settings: dict[str, Any], count: int = 3, **run: Any
) -> list[Path]:
    """Trainings with these settings, by ``section.key``; defaults else."""
    folders = []
    for seed in range(1, count + 1):
        exp = write_experiment(folder / f"{name}-{seed}", seed=seed, **run)
        sections: dict[str, dict[str, Any]] = {"train": {"seed": seed}}
        for key, value in settings.items():
            section, _, option = key.partition(".")
            sections.setdefault(section, {})[option] = value
        (exp / "config.yaml").write_text(json.dumps({"format": FORMAT, **sections}))
        write_decoded(exp, "test", rate, seed=hash_of(exp.name))
        folders.append(exp)
    return folders


def hash_of(name: str) -> int:
    return sum(ord(char) * (k + 1) for k, char in enumerate(name))
