"""Experiments with untrained models, which decode for real."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from asr.config import load
from asr.data.joining import join_speakers
from asr.data.store.manifest import read_cuts, write_cuts
from asr.decode.decode import decode_set, set_name
from asr.decode.score import score_folder
from asr.model.folder import Model, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import Tokenizer, train_tokenizer

TINY = [
    *("encoder.num_layers=2", "encoder.dim=16", "encoder.ff_dim=16", "encoder.conv_kernel=3"),
    *("encoder.subsampling_channels=4", "attention.num_heads=2", "tokenizer.kind=char"),
]


def model_of(tokenizer: Tokenizer, folder: Path) -> Model:
    """An untrained model with this tokenizer, said to lie in ``folder``."""
    config = load([], TINY)
    return Model(Recogniser(config, tokenizer.vocab_size).eval(), tokenizer, config, folder)


def write_run(folder: Path, weighting: str, position: str, seed: int) -> Path:
    """An experiment with an untrained model."""
    words = [f"attention.weighting={weighting}", f"attention.position={position}"]
    config = load([], [*TINY, *words])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], config.tokenizer)
    torch.manual_seed(seed)
    net = Recogniser(config, tokenizer.vocab_size)
    exp = folder / f"{weighting}-{position}-s{seed}"
    save_model(exp / "model", net.state_dict(), config, tokenizer)
    run = {
        "name": exp.name,
        "weighting": weighting,
        "position": position,
        "encoder": "conformer",
        "seed": seed,
        "num_params": 1234,
        "train_audio_s_per_s": 90.0 + seed,
        "commit": "0123456789",
        "command": f"asr train --exp {exp.name} <&>",
    }
    (exp / "run.json").write_text(json.dumps(run))
    log = [{"step": k, "kind": "train", "loss": 4.0 - k / 10} for k in range(1, 9)]
    log += [{"step": k, "kind": "valid", "loss": 4.0, "wer": 1 - k / 10} for k in (4, 8)]
    (exp / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return exp


def decode(exp: Path, cuts: Path, out: Path) -> None:
    """For real; but what an untrained model hears is then replaced."""
    decode_set(load_model(exp), cuts, out)
    mishear(out, exp.name)


def mishear(out: Path, seed: str) -> None:
    """Hypotheses become the references without some of their words."""
    hypotheses = out / "hypotheses.jsonl"
    lines = [json.loads(line) for line in hypotheses.read_text().splitlines()]
    rng = random.Random(seed)
    for line in lines:
        words = line["reference"].split()
        line["hypothesis"] = " ".join(word for word in words if rng.random() < 0.7)
    hypotheses.write_text("".join(json.dumps(line) + "\n" for line in lines))
    score_folder(out)


def decode_joined(exps: Sequence[Path], cuts: Path, lengths_s: Sequence[float]) -> None:
    """For real, each speaker's utterances joined to these seconds, into ``decode/NAME-Ss``."""
    for length_s in lengths_s:
        joined = exps[0].parent / f"{set_name(cuts)}-{length_s:g}s.cuts.jsonl.gz"
        write_cuts(join_speakers(list(read_cuts(cuts)), length_s), joined)
        for exp in exps:
            out = exp / "decode" / set_name(joined)
            decode_set(load_model(exp), joined, out)
            score_folder(out)
