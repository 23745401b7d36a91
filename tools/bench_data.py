"""Cost of data: ``resume`` (time and memory until any step of a huge manifest) and ``loader``.

    python tools/bench_data.py resume --utterances 1000000 --step 100000
    python tools/bench_data.py loader --cuts data/train.cuts.jsonl.gz --workers 1

Run it on a quiet machine: what it prints is the machine's as much as the program's.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from asr.config import AugmentConfig, DataConfig, FeatureConfig, TokenizerConfig
from asr.data.batches import DurationBatches, padding_waste
from asr.data.dataset import TrainingUtterances, Utterances
from asr.data.loader import Loader
from asr.data.store.index import CutTable, open_cuts
from asr.heads.ctc import Ctc
from asr.nn.features.kaldi import Fbank
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, train_tokenizer

RATE = 16000
SPEEDS = [0.9, 1.0, 1.1]


def main() -> None:
    parser = argparse.ArgumentParser(description="What data costs.")
    verbs = parser.add_subparsers(required=True)
    resume = verbs.add_parser("resume", help="open a huge manifest and go on at a step")
    resume.add_argument("--utterances", type=int, default=1_000_000)
    resume.add_argument("--step", type=int, default=100_000)
    resume.add_argument("--global-batch-s", type=float, default=100.0)
    resume.add_argument("--folder", type=Path, help="where the manifest is made and kept")
    resume.set_defaults(run=bench_resume)
    again = verbs.add_parser("open", help="what `resume` runs in a process of its own")
    again.add_argument("--manifest", type=Path, required=True)
    again.add_argument("--step", type=int, required=True)
    again.add_argument("--global-batch-s", type=float, required=True)
    again.set_defaults(run=bench_open)
    loader = verbs.add_parser("loader", help="seconds of audio per second from a manifest")
    loader.add_argument("--cuts", nargs="+", required=True)
    loader.add_argument("--workers", type=int, default=0)
    loader.add_argument("--speeds", type=float, nargs="+", default=[1.0])
    loader.add_argument("--max-batch-s", type=float, default=120.0)
    loader.add_argument("--repeats", type=int, default=3)
    loader.set_defaults(run=bench_loader)
    args = parser.parse_args()
    args.run(args)


def bench_resume(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        manifest = folder / f"huge-{args.utterances}.cuts.jsonl.gz"
        if not manifest.is_file():
            timed("made the manifest", lambda: write_manifest(manifest, args.utterances))
        command = [sys.executable, __file__, "open", "--manifest", str(manifest)]
        command += ["--step", str(args.step), "--global-batch-s", str(args.global_batch_s)]
        for title in ("first start: index and token counts", "resume"):
            print(f"{title}:")
            begun = time.perf_counter()
            subprocess.run(command, check=True)
            print(f"  whole process {time.perf_counter() - begun:.1f} s")


def write_manifest(path: Path, count: int) -> None:
    """Lengths as in LibriSpeech, texts of 14 words; every recording a file that is not there."""
    rng = np.random.default_rng(0)
    durations_s = librispeech_like(count, rng)
    words = ["speech", "a", "of", "attention", "the", "morning", "quiet", "letters", "and", "in"]
    with gzip.open(path, "wt", compresslevel=1, encoding="utf-8") as file:
        for number, duration_s in enumerate(durations_s.round(3).tolist()):
            name = f"{number % 2500:04d}-{number:07d}"
            num_samples = round(duration_s * RATE)
            text = " ".join(words[i] for i in rng.integers(0, len(words), 14))
            span = {"start": 0.0, "duration": duration_s, "channel": 0}
            cut = {
                "id": name,
                **span,
                "supervisions": [
                    {"id": name, "recording_id": name, **span, "text": text, "speaker": name[:4]}
                ],
                "recording": {
                    "id": name,
                    "sources": [{"type": "file", "channels": [0], "source": f"/none/{name}.flac"}],
                    "sampling_rate": RATE,
                    "num_samples": num_samples,
                    "duration": duration_s,
                    "channel_ids": [0],
                },
                "type": "MonoCut",
            }
            file.write(json.dumps(cut) + "\n")


def librispeech_like(count: int, rng: np.random.Generator) -> np.ndarray:
    """Seconds: most utterances 12 to 17 s, a quarter spread from 1.4 s up, as train-clean-100."""
    bulk_s, tail_s = rng.normal(14.2, 1.3, count), rng.uniform(1.4, 16.0, count)
    return np.where(rng.random(count) < 0.75, bulk_s, tail_s).clip(1.4, 24.5)


def bench_open(args: argparse.Namespace) -> None:
    table = timed("  opened the manifest", lambda: open_cuts([args.manifest]))
    dataset = timed("  what can be trained on", lambda: utterances(table, SPEEDS))
    batches = DurationBatches(dataset.durations_s, 300.0, 1, args.global_batch_s)
    epoch, step = divmod(args.step, batches.num_steps)
    plan = timed("  planned", lambda: batches.plan(epoch, dataset.epoch_durations_s(epoch)))
    share = timed("  took the step", lambda: plan.share(step, 1, 2))
    names = [dataset.ids[int(index)] for batch in share for index in batch]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  {len(dataset)} utterances, step {step} of {len(plan)} of epoch {epoch}: {names[:2]} …"
    )
    print(f"  peak memory {peak_mb:.0f} MB")


def utterances(table: CutTable, speeds: list[float]) -> TrainingUtterances:
    normaliser = get_normaliser("lowercase-apostrophe")
    texts = [normaliser(table.text(index)) for index in range(min(len(table), 1000))]
    fbank = Fbank(FeatureConfig())
    tokenizer = train_tokenizer(texts, TokenizerConfig(kind="bpe", vocab_size=60))
    return TrainingUtterances(
        Utterances(table, TextProcessor(normaliser, tokenizer), RATE),
        DataConfig(),
        AugmentConfig(speed_factors=speeds),
        seed=1,
        num_frames=lambda num_samples: fbank.num_frames(num_samples) // 4,
        heads={"ctc": Ctc.frames_needed},
    )


def bench_loader(args: argparse.Namespace) -> None:
    dataset = utterances(open_cuts(args.cuts), args.speeds)
    batches = DurationBatches(dataset.durations_s, args.max_batch_s, 1)
    loader = Loader(dataset, args.workers)
    next(loader.epoch(0, batches.epoch(0)))  # workers are up, files in the page cache
    rates = []
    for epoch in range(args.repeats):
        played_s = dataset.epoch_durations_s(epoch)
        plan = batches.epoch(epoch, played_s)
        begun, cpu_s = time.perf_counter(), time.process_time()
        audio_s = sum(batch.audio_s for batch in loader.epoch(epoch, plan))
        wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_s
        rates.append(audio_s / wall_s / max(args.workers, 1))
        print(
            f"epoch {epoch}: {audio_s:.0f} s of audio in {wall_s:.2f} s, {rates[-1]:.0f} per second "
            f"and process; main process {cpu_s:.2f} s of CPU; padding "
            f"{100 * padding_waste(plan, played_s):.1f} %"
        )
    print(f"best {max(rates):.0f}, of {os.cpu_count()} cores; the bar is 500 s per second and core")


Result = TypeVar("Result")


def timed(title: str, work: Callable[[], Result]) -> Result:
    begun = time.perf_counter()
    result = work()
    print(f"{title}: {time.perf_counter() - begun:.2f} s", flush=True)
    return result


if __name__ == "__main__":
    main()
