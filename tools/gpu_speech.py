"""Softmax and sigmoid on the same real speech, side by side on one GPU, within given seconds.

    python tools/gpu_speech.py prepare --packed FOLDER --tokens 128         # once, before: tokenizer
    python tools/gpu_speech.py train --packed FOLDER --out OUT --seconds 150
    python tools/gpu_speech.py join OUT/sigmoid EXP/model                   # parts -> a model folder

`train` decodes the packed speech once on all cores and starts a process per weighting. Each holds the
features of all speeds on the device and repeats captured CUDA graphs, one per length of batch: forward,
backward, clipping, AdamW. Both take the same number of steps, what the slower of the two can do
in the time. Weights come back in bf16, in parts of less than 16 MiB, every 30 s and at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from speech_pack import decode, index

from asr import config as configuration
from asr.config import Config
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import load_tokenizer, train_tokenizer

CONFIG = Path(__file__).parent.parent / "recipes/librispeech/conf/minutes.yaml"
PART_BYTES = 15 << 20


def load_config(weighting: str, more: list[str]) -> Config:
    return configuration.load([CONFIG], [f"attention.weighting={weighting}", *more])


def prepare(args: argparse.Namespace) -> None:
    """The tokenizer, from the packed training texts."""
    config = load_config("sigmoid", [f"tokenizer.vocab_size={args.tokens}", *args.set])
    normalise = get_normaliser(config.tokenizer.normaliser)
    texts = [normalise(row["text"]) for row in index(args.packed, "train")]
    tokenizer = train_tokenizer(texts, config.tokenizer)
    tokenizer.save(args.packed)
    lengths = [len(tokenizer.encode(text)) for text in texts]
    print(f"{tokenizer.vocab_size} units, {np.mean(lengths):.1f} a text, at most {max(lengths)}")


def write_samples(folder: Path, packed: Path, config: Config, processes: int, most: int) -> None:
    """Decoded speech for the training processes: `PART-SPEED.npy` and the lengths."""
    for part, speeds in (("train", tuple(config.augment.speed_factors)), ("dev", (1.0,))):
        rows = index(packed, part)[:: 1 if not most else -(-4484 // most)]
        for speed, waves in zip(speeds, decode(packed, rows, speeds, processes), strict=True):
            np.save(folder / f"{part}-{speed:g}.npy", np.concatenate(waves))
            np.save(folder / f"{part}-{speed:g}-lens.npy", np.array([len(w) for w in waves]))
        (folder / f"{part}.json").write_text(json.dumps(rows))


def train(args: argparse.Namespace) -> None:
    """Decodes, then one process per weighting; what one of them prints carries its name."""
    begun_s = time.time()
    args.out.mkdir(parents=True, exist_ok=True)
    config = load_config("sigmoid", args.set)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_samples(folder, args.packed, config, args.processes, args.utterances)
        print(f"decoded after {time.time() - begun_s:.1f} s", flush=True)
        common = [sys.executable, str(Path(__file__).with_name("gpu_speech_run.py"))]
        common += ["--samples", str(folder), "--packed", str(args.packed), "--out", str(args.out)]
        common += ["--until", str(begun_s + args.seconds), "--batch-s", str(args.batch_s)]
        common += ["--steps", str(args.steps), "--peers", str(len(args.weightings))]
        common += [f"--{name}" for name in ("eager", "no_graphs") if getattr(args, name)]
        common += ["--set", *args.set]
        children = [
            subprocess.Popen([*common, "--weighting", weighting]) for weighting in args.weightings
        ]
        codes = [child.wait() for child in children]
        failed = [w for w, code in zip(args.weightings, codes, strict=True) if code]
        left_s = begun_s + args.seconds - time.time()
        if failed and left_s > 30 and not args.no_graphs:
            print(f"{failed}: once more, without graphs, for {left_s:.0f} s", flush=True)
            again = [
                subprocess.Popen([*common, "--no_graphs", "--weighting", weighting])
                for weighting in failed
            ]
            codes += [child.wait() for child in again]
    print(f"done after {time.time() - begun_s:.1f} s, exit codes {codes}", flush=True)


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
    """A model folder from the parts of one training."""
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(args.parts.glob("weights-*.safetensors")):
        weights |= {name: value.float() for name, value in load_file(path).items()}
    log = json.loads((args.parts / "log.json").read_text())
    config = load_config(log["weighting"], log["set"])
    tokenizer = load_tokenizer(args.packed)
    Recogniser(config, tokenizer.vocab_size).load_state_dict(weights)
    save_model(args.model, weights, config, tokenizer)
    print(f"{args.model}: {log['weighting']}, {log['steps']} steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    for name, run in (("prepare", prepare), ("train", train), ("join", join)):
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        command.add_argument("--packed", type=Path, required=True)
        command.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
        if name == "prepare":
            command.add_argument("--tokens", type=int, default=128)
        if name == "join":
            command.add_argument("parts", type=Path)
            command.add_argument("model", type=Path)
        if name == "train":
            command.add_argument("--out", type=Path, required=True)
            command.add_argument("--weightings", nargs="+", default=["softmax", "sigmoid"])
            command.add_argument("--seconds", type=float, default=150.0, help="in all")
            command.add_argument("--batch-s", type=float, default=480.0, help="of speech, one view")
            command.add_argument("--steps", type=int, default=0, help="0: what the time allows")
            command.add_argument("--processes", type=int, default=16)
            command.add_argument("--utterances", type=int, default=0, help="0: all")
            command.add_argument("--eager", action="store_true", help="layers not compiled")
            command.add_argument("--no-graphs", action="store_true")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
