"""Damage each kind of file that is read, over and over, and see how the commands end.

    python tools/fuzz_files.py --seconds 600 [--seed 1] [--only manifest checkpoint]

Each damaged copy is read by a command in a forked process with limits of memory and time. A fault is a
traceback, a signal, a hang, an undocumented exit status, or a refusal without
an error line. Where a command
succeeds with another result than that of the whole file, that is counted; for the kinds named with
``--summed`` (files that carry a checksum) it is a fault as well. Exit status 1 if there was a fault.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
import torch._dynamo  # by any optimiser: once here, not in every forked process
from forked import Ending, run_forked

from asr import config
from asr.cli import main as asr_main
from asr.data.store.preparation import Utterance, prepare_part
from asr.lm.neural import NeuralConfig, NeuralLm, save_neural
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

SMALL = [
    *("encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "encoder.conv_kernel=5"),
    *("encoder.subsampling_channels=4", "tokenizer.kind=char", "train.epochs=1"),
    *("train.num_threads=1", "train.tensorboard=false"),
]
SECONDS_EACH = 90
EXTRA_BYTES = 3 << 30
# Success, certify's "does not hold", wrong input, some inputs failed.
ALLOWED = (0, 1, 2, 3)
# In results, what depends on the clock.
CLOCK = ("wall_s", "rtf", "audio_s_per_s", "waiting", "train_wall_s", "train_audio_s_per_s")
WRONG = [
    "null",
    '""',
    '"x"',
    "5",
    "-1",
    "NaN",
    "1e999",
    "[]",
    "{}",
    "true",
    "1" * 5000,
    '"\\u0000"',
]

Words = Callable[[Path, Path], list[object]]


@dataclass(frozen=True)
class Target:
    """A file below the workspace, and the command that reads it there and writes to another folder."""

    file: str
    words: Words


def _decode(root: Path, out: Path) -> list[object]:
    model = ["--model", root / "exp", "--cuts", root / "data/some.cuts.jsonl.gz"]
    return ["decode", *model, "--out", out, "--threads", 1, "--device", "cpu"]


def _beam(root: Path, out: Path) -> list[object]:
    words = ["--search", "beam", "--beam", 2, "--lm", root / "lm.arpa"]
    return [*_decode(root, out), *words, "--neural", root / "neural"]


def _resume(root: Path, out: Path) -> list[object]:
    shutil.copytree(root / "run", out)
    data = [f"data.{part}=[{root}/data/some.cuts.jsonl.gz]" for part in ("train", "dev")]
    return ["train", "--exp", out, "--resume", *SMALL, *data]


def _compare(root: Path, out: Path) -> list[object]:
    return ["compare", root / "run", "--out", out, "--html", out / "report.html"]


TARGETS = {
    "manifest": Target("data/some.cuts.jsonl.gz", _decode),
    "shard": Target(
        "shards/some-000000.tar",
        lambda root, out: [*_decode(root, out)[:3], "--cuts", root / "shards/some.cuts.jsonl.gz",
                           "--out", out, "--threads", 1, "--device", "cpu"],
    ),
    "weights": Target("exp/model/model.safetensors", _decode),
    "tokenizer": Target("exp/model/tokenizer.json", _decode),
    "config": Target("exp/model/config.yaml", _decode),
    "checkpoint": Target(
        "run/checkpoints/*.pt",
        lambda root, out: ["average", "--exp", root / "run", "--out", out],
    ),
    "arpa": Target("lm.arpa", _beam),
    "neural weights": Target("neural/*.safetensors", _beam),
    "lm.json": Target("neural/*.json", _beam),
    "search.yaml": Target("exp/model/search.yaml", _beam),
    "decode.json": Target("run/decode/some/decode.json", _compare),
    "hypotheses": Target("run/decode/some/hypotheses.jsonl", _compare),
    "score.json": Target("run/decode/some/score.json", _compare),
    "run.json": Target("run/run.json", _compare),
    "log.jsonl": Target("run/log.jsonl", _compare),
    "run config": Target("run/config.yaml", _compare),
    "resumed checkpoint": Target("run/checkpoints/*.pt", _resume),
    "corpus": Target(
        "data/some.cuts.jsonl.gz",
        lambda root, out: [*("prepare", "lhotse", "--corpus", root / "data/some.cuts.jsonl.gz"),
                           *("--out", out, "--jobs", 1)],
    ),
    "audio": Target(
        "audio/a.wav",
        lambda root, out: [*("transcribe", root / "audio/a.wav", root / "audio/b.wav", "--model"),
                           *(root / "exp", "--out", out, "--threads", 1, "--device", "cpu")],
    ),
}  # fmt: skip


def make_workspace(root: Path) -> None:
    """One small file of each kind."""
    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    utterances = []
    for name in "abc":
        path = root / "audio" / f"{name}.wav"
        soundfile.write(path, rng.uniform(-0.3, 0.3, 24000), 16000)
        utterances.append(Utterance(name, path, f"some words {name}", "s"))
    prepare_part("some", utterances, root / "data", num_jobs=1)
    cuts = root / "data" / "some.cuts.jsonl.gz"
    loaded = config.load([], SMALL)
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], loaded.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(loaded, tokenizer.vocab_size)
    save_model(root / "exp" / "model", net.state_dict(), loaded, tokenizer)
    neural = NeuralConfig(tuple(tokenizer.pieces), dim=8)
    save_neural(NeuralLm(neural), root / "neural")
    data = [f"data.{part}=[{cuts}]" for part in ("train", "dev")]
    lm = root / "lm.arpa"
    for words in (
        ["shard", "--cuts", cuts, "--out", root / "shards", "--jobs", 1],
        ["lm", "train", "--text", cuts, "--order", 2, "--out", lm],
        ["train", "--exp", root / "run", *SMALL, *data],
        ["decode", "--model", root / "run", "--cuts", cuts, "--threads", 1],
        ["tune", "--model", root / "exp", "--cuts", cuts, "--lm", lm, "--beam", 2],
    ):
        assert asr_main([str(word) for word in words]) == 0, words


def damage(content: bytes, rng: random.Random) -> bytes:
    """One to three changes; of gzipped text, half of the time of what is inside."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.6:
        return gzip.compress(damage(gzip.decompress(content), rng), mtime=0)
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(max(1, len(data)))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + rng.randint(1, 64)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            data[at:at] = data[at : at + rng.randint(1, 256)]
        elif kind == 5:
            data[at : at + 8] = bytes(len(data[at : at + 8]))
        else:
            data = bytearray(_other_value(bytes(data), rng))
    return bytes(data)


def _other_value(content: bytes, rng: random.Random) -> bytes:
    """Something else after one of the colons of JSON or YAML."""
    colons = [place for place, byte in enumerate(content[:100_000]) if byte == ord(":")]
    if not colons:
        return content
    begin = rng.choice(colons) + 1
    ends = [end for mark in b",}\n" if (end := content.find(mark, begin)) >= 0]
    end = min(ends, default=len(content))
    return content[:begin] + b" " + rng.choice(WRONG).encode() + content[end:]


class Outcome(NamedTuple):
    """How a command ended, and the results that it wrote."""

    ending: Ending
    results: dict[str, object]


def run(target: Target, root: Path, scratch: Path) -> Outcome:
    """The command of a target, under limits."""
    out = scratch / "out"
    return Outcome(run_forked(target.words(root, out), SECONDS_EACH, _limit), _results(out))


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + EXTRA_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _results(out: Path) -> dict[str, object]:
    """Result files by name, without what depends on the clock or the folder."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")) if out.exists() else []:
        if path.suffix == ".json" and path.is_file():
            content = json.loads(path.read_text())
            found[path.name] = {k: v for k, v in content.items() if k not in CLOCK}
        elif path.suffix in (".jsonl", ".txt", ".safetensors", ".md") and path.name != "log.jsonl":
            found[str(path.relative_to(out))] = path.read_bytes()
    return found


def fault_of(end: Ending) -> str:
    """What is wrong with how a command ended, or nothing."""
    if end.code == -signal.SIGALRM:
        return "hang"
    if end.code < 0:
        return f"signal {-end.code}"
    if "Traceback" in end.error:
        return "traceback"
    if end.code not in ALLOWED:
        return f"exit status {end.code}"
    errors = [line for line in end.error.splitlines() if line.startswith("asr: error")]
    return "no error line" if end.code == 2 and not errors else ""


def main() -> int:
    """Fuzz for a while; print the faults and a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--summed", nargs="*", choices=TARGETS, default=[])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, begun_s = random.Random(args.seed), time.monotonic()
    counts: dict[str, Counter[str]] = {name: Counter() for name in args.only}
    num_faults = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "work"
        make_workspace(root)
        whole = {}
        for name in args.only:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                whole[name] = run(TARGETS[name], root, Path(scratch))
                assert whole[name].ending.code == 0, (name, whole[name].ending.error)
        while time.monotonic() - begun_s < args.seconds:
            for name in args.only:
                (path,) = list(root.glob(TARGETS[name].file))[-1:]
                content = path.read_bytes()
                changed = damage(content, rng)
                try:
                    path.write_bytes(changed)
                    with tempfile.TemporaryDirectory(dir=folder) as scratch:
                        end, results = run(TARGETS[name], root, Path(scratch))
                finally:
                    path.write_bytes(content)
                fault = fault_of(end)
                silent = end.code == 0 and results != whole[name].results
                if silent and name in args.summed:
                    fault = "another result without an error"
                kind = "other result" if silent else "refused" if end.code else "same"
                counts[name][fault or kind] += 1
                if fault:
                    num_faults += 1
                    kept = Path(tempfile.mkdtemp(prefix="fuzz-")) / path.name
                    kept.write_bytes(changed)
                    print(f"{name}: {fault}: {kept}\n{end.error[-1500:]}", flush=True)
    for name, found in counts.items():
        print(f"{name:20s} {dict(found)}")
    print(f"{num_faults} faults in {sum(c.total() for c in counts.values())} runs")
    return 1 if num_faults else 0


if __name__ == "__main__":
    sys.exit(main())
