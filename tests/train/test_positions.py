"""Learned positions from training to transcripts: what they do not reach is refused before it starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import asr
from asr import config
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError
from asr.model.folder import load_model
from asr.train.run import train

from .test_front_ends import TINY

LEARNED = ["attention.position=learned", "train.epochs=1"]
DECODER = [
    *("model.heads=[ctc,attention]", "decoder.position=learned", "decoder.tie_embeddings=true"),
    *("decoder.num_layers=1", "decoder.num_heads=2", "decoder.ff_dim=32"),
]


def settings(tiny_corpus: Path, *more: str) -> config.Config:
    parts = [f"data.{part}=[{tiny_corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    return config.load([], [*TINY, *parts, *more])


def longest_text(tiny_corpus: Path) -> int:
    parts = (read_cuts(tiny_corpus / f"{part}.cuts.jsonl.gz") for part in ("train", "dev"))
    return max(len(cut.supervisions[0].text) for cuts in parts for cut in cuts)


def test_it_trains_where_there_are_more_frames_than_places_for_tokens(
    tiny_corpus: Path, tmp_path: Path
) -> None:
    """And what is longer than the positions reach is transcribed in windows that are not."""
    places = longest_text(tiny_corpus) + 1
    fine = [*LEARNED, *DECODER, f"decoder.num_positions={places}", "attention.num_positions=100"]
    chosen = settings(tiny_corpus, *fine, "features.kind=whisper", "features.pad_s=3.9")
    assert load_frames(chosen) > places
    train(chosen, tmp_path / "exp")
    cuts = list(read_cuts(tiny_corpus / "train.cuts.jsonl.gz"))
    wave_n = np.concatenate([load_waveform(cut, 16000) for cut in cuts])[: 20 * 16000]
    model = load_model(tmp_path / "exp")
    by_default = asr.Transcriber(model).transcribe(wave_n, 16000)
    chosen_s = asr.Transcriber(model, window_s=4.0, overlap_s=1.0).transcribe(wave_n, 16000)
    assert by_default == chosen_s
    assert asr.Transcriber(model, window_s=2.0).transcribe(wave_n, 16000).duration_s == 20.0
    with pytest.raises(InputError, match=r"window_s = 30: this model has positions for 4 s"):
        asr.Transcriber(model, window_s=30)
    joint = asr.Transcriber(model, asr.SearchOptions("joint", 2)).transcribe(wave_n, 16000)
    assert joint.duration_s == 20.0


def load_frames(chosen: config.Config) -> int:
    return round(chosen.features.pad_s * 25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [*LEARNED, "attention.num_positions=10"],
            r"^attention\.num_positions = 10: the longest utterance, of \d+\.\d s .* has \d+ frames",
        ),
        (
            ["train.epochs=1", *DECODER, "decoder.num_positions=3"],
            r"its transcript has \d+ tokens, and the attention head takes 2: raise decoder",
        ),
    ],
)
def test_what_is_too_long_is_named_before_anything_is_written(
    tiny_corpus: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(settings(tiny_corpus, *options), tmp_path / "exp")
    left = [path for path in (tmp_path / "exp").rglob("*") if path.is_file()]
    assert [path.name for path in left if path.name != "run.lock"] == []


def test_one_place_more_is_enough(tiny_corpus: Path, tmp_path: Path) -> None:
    most = longest_text(tiny_corpus)
    few = [*DECODER, "train.epochs=1", f"decoder.num_positions={most}"]
    with pytest.raises(
        InputError, match=rf"has {most} tokens, and the attention head takes {most - 1}"
    ):
        train(settings(tiny_corpus, *few), tmp_path / "few")
    train(settings(tiny_corpus, *few[:-1], f"decoder.num_positions={most + 1}"), tmp_path / "exp")
