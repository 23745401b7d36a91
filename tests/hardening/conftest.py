"""One of everything that the commands read, and commands run in processes of their own."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torch._dynamo  # by any optimiser: once here, not in every forked process
from forked import Ending, run_forked

from asr import config
from asr.cli import main
from asr.data.store.manifest import read_cuts, write_cuts
from asr.model.folder import save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer
from asr.train.checkpoint import write_file

TINY = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=32",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.epochs=1",
    "train.num_threads=1",
    "train.tensorboard=false",
]


@dataclass(frozen=True)
class Workspace:
    """Inputs of every command."""

    root: Path

    @property
    def cuts(self) -> Path:
        return self.root / "few.cuts.jsonl.gz"

    @property
    def model(self) -> Path:
        return self.root / "exp"

    @property
    def lm(self) -> Path:
        return self.root / "lm.arpa"

    @property
    def audio(self) -> Path:
        return self.root / "talks" / "a.wav"


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Workspace:
    root = tmp_path_factory.mktemp("hardening")
    space = Workspace(root)
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))[:3]
    write_cuts(cuts, space.cuts)
    _write_corpora(root)
    cfg = config.load([], TINY)
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    save_model(space.model / "model", net.state_dict(), cfg, tokenizer)
    write_file(space.model / "checkpoints", 1, {"model": net.state_dict(), "average": {}})
    shutil.copytree(space.model / "model", space.model / "tokenizer")
    shutil.copy(space.model / "model" / "config.yaml", space.model)
    record = {"name": "exp", "weighting": "sigmoid", "position": "alibi", "encoder": "conformer"}
    record["commit"] = "0123456789"
    (space.model / "run.json").write_text(json.dumps(record))
    steps = [{"kind": kind, "step": 1, "loss": 1.0, "wer": 1.0} for kind in ("train", "valid")]
    (space.model / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    words = ["--model", str(space.model), "--cuts", str(space.cuts), "--threads", "1"]
    assert main(["decode", *words]) == 0
    words = ["--text", str(space.cuts), "--order", "2", "--out", str(space.lm)]
    assert main(["lm", "train", *words]) == 0
    return space


def _write_corpora(root: Path) -> None:
    """Two utterances as a folder, a table, JSON lines, a Kaldi directory and LibriSpeech's layout."""
    rng = np.random.default_rng(0)
    talks, chapter = root / "talks", root / "libri" / "part" / "1" / "2"
    for folder in (talks, root / "kaldi", chapter):
        folder.mkdir(parents=True)
    for name, text in (("a", "some words"), ("b", "other words")):
        soundfile.write(talks / f"{name}.wav", rng.uniform(-0.3, 0.3, 16000), 16000)
        (talks / f"{name}.txt").write_text(text)
        shutil.copy(talks / f"{name}.wav", chapter / f"1-2-{name}.wav")
    (chapter / "1-2.trans.txt").write_text("1-2-a SOME WORDS\n1-2-b OTHER WORDS\n")
    (root / "table.tsv").write_text("path\tsentence\na.wav\tsome words\nb.wav\tother words\n")
    lines = [{"audio_filepath": f"talks/{name}.wav", "text": "words"} for name in "ab"]
    (root / "nemo.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "kaldi" / "wav.scp").write_text(f"a {talks}/a.wav\nb {talks}/b.wav\n")
    (root / "kaldi" / "text").write_text("a some words\nb other words\n")


class Outcome(Ending):
    """How a command ended."""

    def refused(self, *parts: str) -> None:
        """Exit status 2 and one line."""
        assert self.code == 2, self
        lines = [line for line in self.error.splitlines() if line.strip()]
        assert len(lines) == 1, self.error
        assert lines[0].startswith("asr: error: ")
        for part in parts:
            assert part in lines[0]


def run_apart(words: Sequence[object], before: Callable[[], object] = lambda: None) -> Outcome:
    """One command in a forked process; ``before`` runs there first: limits, signals."""
    ending = run_forked(words, 120, before)
    return Outcome(ending.code, ending.error)


def limit_files(num_bytes: int, kill: bool) -> Callable[[], None]:
    """No file of the process can grow beyond that: writing on is an error as on a full disk, or kills
    the process in the middle of its write."""

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kill else signal.SIG_IGN)

    return before


def visible_files(root: Path) -> dict[str, bytes]:
    """Content by path; files whose name starts with a dot are unfinished and nobody reads them."""
    if not root.exists():
        return {}
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(root).parts)
    }
