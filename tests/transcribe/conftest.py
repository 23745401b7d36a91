"""Two untrained models: their words are noise, but the same noise every time."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

import asr
from asr import config
from asr.api import Transcriber
from asr.cli import main
from asr.model.folder import Model, save_model
from asr.model.recogniser import Recogniser
from asr.text.tokenizer import train_tokenizer

RATE = 16000
Run = Callable[..., tuple[int, str, str]]

# not imported even to look: its import changes the number of threads
needs_silero = pytest.mark.skipif(
    importlib.util.find_spec("silero_vad") is None, reason="extra `vad` not installed"
)


class Unchanged(nn.Module):
    """A layer that does nothing."""

    def forward(self, x_btd: Tensor, *rest: object) -> Tensor:
        return x_btd


SMALL = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
STREAMING = [
    "encoder.causal=true",
    "encoder.conv_kernel=7",
    "encoder.chunk_sizes=[0,4,8]",
    "encoder.left_chunks=[1,3]",
]


def untrained(folder: Path, local: bool, babble: np.ndarray, options: Sequence[str] = ()) -> Model:
    cfg = config.load([], [*SMALL, *options])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size).eval()
    if local:
        net.encoder.layers = nn.ModuleList([Unchanged()])
    # every token as likely as any other on average, blank and space more so, and no frame unsure
    blank, space = 0, 2
    with torch.no_grad():
        net.heads["ctc"].linear.weight.mul_(100)
        log_probs_btv, _ = net(torch.from_numpy(babble[None, :320_000]), torch.tensor([320_000]))
        scale = 3.0 / log_probs_btv.std(1).mean()
        net.heads["ctc"].linear.weight.mul_(scale)
        net.heads["ctc"].linear.bias.mul_(scale).sub_(log_probs_btv[0].mean(0) * scale)
        net.heads["ctc"].linear.bias[blank] += 1.0
        net.heads["ctc"].linear.bias[space] += 4.0
    return Model(net, tokenizer, cfg, folder)


def offline_log_probs(model: Model, wave_n: np.ndarray, chunk: tuple[int, int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.net(torch.from_numpy(wave_n)[None], torch.tensor([len(wave_n)]), chunk=chunk)[
            0
        ]


def offline_letters(model: Model, wave_n: np.ndarray, chunk: tuple[int, int]) -> str:
    """The full-file chunked pass: the likeliest token of each frame, repeats and blanks left out."""
    path = offline_log_probs(model, wave_n, chunk)[0].argmax(-1).tolist()
    tokens = [token for token, _ in itertools.groupby(path) if token]
    return "".join(model.tokenizer.decode(tokens).split())


def saved(folder: Path, model: Model) -> Path:
    save_model(folder / "model", model.net.state_dict(), model.config, model.tokenizer)
    return folder


@pytest.fixture(scope="session")
def exp(tmp_path_factory: pytest.TempPathFactory, babble: np.ndarray) -> Path:
    """A model folder."""
    folder = tmp_path_factory.mktemp("transcribe") / "exp"
    return saved(folder, untrained(folder, False, babble))


@pytest.fixture(scope="session")
def mute_exp(tmp_path_factory: pytest.TempPathFactory, babble: np.ndarray) -> Path:
    """A model folder of one that hears no words, and may stream."""
    folder = tmp_path_factory.mktemp("mute") / "exp"
    model = untrained(folder, False, babble, STREAMING)
    with torch.no_grad():
        model.net.heads["ctc"].linear.bias[0] = 1000.0
    return saved(folder, model)


@pytest.fixture(scope="session")
def streaming_exp(tmp_path_factory: pytest.TempPathFactory, babble: np.ndarray) -> Path:
    """A model folder; trained with chunks, its configuration says."""
    folder = tmp_path_factory.mktemp("stream") / "exp"
    return saved(folder, untrained(folder, False, babble, STREAMING))


@pytest.fixture(scope="session")
def transcriber(streaming_exp: Path) -> Transcriber:
    return asr.load(streaming_exp, "cpu")


@pytest.fixture
def local_model(tmp_path: Path, babble: np.ndarray) -> Model:
    """A model whose layers do nothing: a frame depends on some 100 ms around it and on nothing else."""
    return untrained(tmp_path, True, babble)


@pytest.fixture(scope="session")
def babble() -> np.ndarray:
    """A minute at 16 kHz of changing sound: gliding tones in noise, with pauses."""
    rng = np.random.default_rng(0)
    time_n = np.arange(60 * 16000) / 16000
    hz_n = 300 + 200 * np.sin(2 * np.pi * 0.7 * time_n) + 900 * (np.sin(3 * time_n) > 0)
    tone_n = np.sin(2 * np.pi * np.cumsum(hz_n) / 16000) * (np.sin(0.9 * time_n) > -0.8)
    return (0.3 * tone_n + 0.01 * rng.standard_normal(len(time_n))).astype("f4")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], exp: Path) -> Run:
    """`asr transcribe`: words to (exit status, standard output, standard error)."""

    def call(*words: object) -> tuple[int, str, str]:
        options = ["--model", exp, "--device", "cpu", "--threads", 1]
        try:
            code = main([str(word) for word in ["transcribe", *options, *words]])
        except SystemExit as stop:  # argparse's own way out
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def good(tmp_path: Path, babble: np.ndarray) -> Path:
    soundfile.write(tmp_path / "good.wav", babble[: 3 * RATE], RATE)
    return tmp_path / "good.wav"


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> None:
    soundfile.write(path, samples, rate, subtype=subtype)
