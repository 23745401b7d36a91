"""Softmax and sigmoid on the same real speech, side by side on one GPU, within given seconds.

    python tools/gpu_speech.py prepare --packed FOLDER                     # once, before: tokenizers
    python tools/gpu_speech.py train --packed FOLDER --out OUT --seconds 300
    python tools/gpu_speech.py join --packed FOLDER OUT/sigmoid EXP         # parts -> an experiment

`train` decodes the packed speech once on all cores and holds the features of all speeds on the device.
The models see the same batches in the same order; each repeats captured CUDA graphs on a stream of its
own, one per shape of batch: forward, backward, clipping, AdamW. Weights come back in bf16, in parts of
less than 16 MiB, every 30 s and at the end.

A CTC model leaves its plateau soonest on easy speech. So the first part of the time has short utterances
without masks, and characters as units of the last and of a middle layer. Then come all utterances and
subword units; the middle layer goes on with characters, through a head that is not kept (hierarchical
CTC: Sanabria and Metze 2018, arXiv 1807.07104).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from speech_pack import decode, index

from asr import config as configuration
from asr.config import Config, TokenizerConfig
from asr.formats import upgrade_weights
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser, count_parameters
from asr.run_folder import CONFIG, RunFolder
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import load_tokenizer, train_tokenizer
from asr.train.record import write_run

PRESET = Path(__file__).parent.parent / "recipes/librispeech/conf/minutes.yaml"
CHARACTERS = "characters"  # folder of the middle layer's tokenizer, in that of the packed speech
PART_BYTES = 15 << 20


def load_config(weighting: str, more: list[str]) -> Config:
    return configuration.load([PRESET], [f"attention.weighting={weighting}", *more])


def prepare(args: argparse.Namespace) -> None:
    """The tokenizers, from the packed training texts."""
    config = load_config("sigmoid", args.set)
    normalise = get_normaliser(config.tokenizer.normaliser)
    texts = [normalise(row["text"]) for row in index(args.packed, "train")]
    characters = TokenizerConfig(kind="char", normaliser=config.tokenizer.normaliser)
    for folder, options in (
        (args.packed, config.tokenizer),
        (args.packed / CHARACTERS, characters),
    ):
        tokenizer = train_tokenizer(texts, options)
        folder.mkdir(exist_ok=True)
        tokenizer.save(folder)
        lengths = [len(tokenizer.encode(text)) for text in texts]
        size = f"{np.mean(lengths):.1f} a text, at most {max(lengths)}"
        print(f"{tokenizer.vocab_size} units, {size}")


def write_samples(args: argparse.Namespace, config: Config) -> None:
    """Decoded speech in `args.samples`: `PART-SPEED.npy` and the lengths, unless it is there."""
    folder: Path = args.samples
    if (folder / "train.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for part, speeds in (("dev", [1.0]), ("train", config.augment.speed_factors)):
        rows = index(args.packed, part)
        rows = rows[:: -(-len(rows) // args.utterances)] if args.utterances else rows
        decoded = decode(args.packed, rows, tuple(speeds), args.processes)
        for speed, waves in zip(speeds, decoded, strict=True):
            np.save(folder / f"{part}-{speed:g}.npy", np.concatenate(waves))
            np.save(folder / f"{part}-{speed:g}-lens.npy", np.array([len(w) for w in waves]))
        (folder / f"{part}.json").write_text(json.dumps(rows))


def train(args: argparse.Namespace) -> None:
    """Decodes, then trains all weightings in this process."""
    from gpu_speech_run import run  # it imports from here

    begun_s = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    write_samples(args, load_config(args.weightings[0], args.set))
    print(f"decoded after {time.time() - begun_s:.1f} s", flush=True)
    run(args, begun_s)


def save_parts(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Trained weights in bf16, buffers as they are, in files of at most PART_BYTES."""
    parts: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, value in weights.items():
        kept = value.detach().to("cpu", torch.bfloat16 if value.ndim else value.dtype)
        if name.startswith("norm."):
            kept = value.detach().cpu()
        if size + kept.nbytes > PART_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = kept.contiguous()
        size += kept.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        unfinished = folder / f".weights-{number}"
        save_file(part, unfinished)
        unfinished.rename(folder / f"weights-{number}.safetensors")


def join(args: argparse.Namespace) -> None:
    """An experiment folder, which `asr decode` and `asr compare` take, from the parts of a training."""
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(args.parts.glob("weights-*.safetensors")):
        weights |= {name: value.float() for name, value in load_file(path).items()}
    log = json.loads((args.parts / "log.json").read_text())
    config = load_config(log["weighting"], log["set"])
    tokenizer = load_tokenizer(args.packed)
    net = Recogniser(config, tokenizer.vocab_size)
    weights = upgrade_weights(weights)
    net.load_state_dict(weights)
    exp = RunFolder(args.exp)
    save_model(exp.model, weights, config, tokenizer)
    shutil.copyfile(exp.model / CONFIG, exp.config)
    record = {
        "name": args.exp.name,
        "weighting": config.attention.weighting,
        "position": config.attention.position,
        "encoder": config.encoder.kind,
        "num_params": count_parameters(net),
        "attention_backend": log["backend"],
        "normaliser": config.tokenizer.normaliser,
        "commit": args.commit or log["commit"],
        "dirty": False if args.commit else log["dirty"],
        "seed": config.train.seed,
        "train_hours": round(log["hours"], 3),
        "train_wall_s": round(log["seconds"], 1),
        "train_audio_s_per_s": round(3600 * log["audio_h"] / log["seconds"], 1),
        "num_skipped_steps": int(log["skipped"]),
        "command": log.get("command", "tools/gpu_speech.py train"),
        "options": log["options"],
    }
    write_run(exp, record)
    # while utterances are short the loss is per character: no point of one curve
    first = log["options"]["short_share"] * log["seconds"]
    lines = [
        {"kind": "train", "step": step, "loss": loss, "wall_s": wall_s, "audio_s": 3600 * audio_h}
        for step, wall_s, audio_h, loss, _ in log["train"]
        if wall_s > first
    ]
    if "dev_wer" in log:
        lines.append({"kind": "valid", "step": log["steps"], "wer": log["dev_wer"]})
    exp.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{args.exp}: {log['weighting']}, {log['steps']} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (("prepare", prepare), ("train", train), ("join", join)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--packed", type=Path, required=True)
        command.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
        if name == "join":
            command.add_argument("parts", type=Path)
            command.add_argument("exp", type=Path)
            command.add_argument("--commit", help="that trained it, where the log has another")
        if name == "train":
            add = command.add_argument
            add("--out", type=Path, required=True)
            add("--samples", type=Path, required=True, help="decoded speech, kept for another run")
            add("--weightings", nargs="+", default=["softmax", "sigmoid"])
            add("--seconds", type=float, default=300.0, help="in all")
            add("--batch-s", type=float, default=64.0, help="of speech")
            add("--short-batch-s", type=float, default=48.0, help="of short utterances, at first")
            add("--short-share", type=float, default=0.15, help="of the steps, with those")
            add("--character-layer", type=int, default=4)
            add("--steps", type=int, default=0, help="0: what the time allows")
            add("--processes", type=int, default=16)
            add("--utterances", type=int, default=0, help="about so many; 0: all")
            add("--eager", action="store_true", help="layers not compiled")
            add("--no-graphs", action="store_true")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
