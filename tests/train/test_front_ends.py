"""A front end that needs whole utterances from training to certified transcripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from asr import api, config
from asr.data.store.manifest import read_cuts
from asr.decode.decode import decode_set
from asr.errors import InputError
from asr.examine.certify import certify
from asr.model.folder import load_model
from asr.train.run import train

TINY = [
    "encoder.num_layers=1",
    "encoder.dim=32",
    "encoder.ff_dim=48",
    "encoder.conv_kernel=5",
    "encoder.subsampling_channels=4",
    "tokenizer.kind=char",
    "train.global_batch_s=12",
    "train.max_batch_s=12",
    "train.num_threads=1",
    "train.tensorboard=false",
    "train.average_checkpoints=1",
    "train.log_steps=1",
    "optimizer.lr=0.005",
    "train.epochs=8",
]


@pytest.mark.parametrize("options", [["kind=whisper", "pad_s=6"], ["kind=nemo", "num_mels=128"]])
def test_it_trains_decodes_transcribes_and_is_certified(
    tiny_corpus: Path, tmp_path: Path, options: list[str]
) -> None:
    exp, cuts = tmp_path / "exp", tiny_corpus / "test.cuts.jsonl.gz"
    parts = [f"data.{part}=[{tiny_corpus}/{part}.cuts.jsonl.gz]" for part in ("train", "dev")]
    settings = [*TINY, *parts, *(f"features.{option}" for option in options)]
    train(config.load([], settings), exp)
    log = [json.loads(line) for line in (exp / "log.jsonl").read_text().splitlines()]
    losses = [one["loss"] for one in log if one["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    # nothing is estimated, so nothing is saved
    names = load_file(exp / "model" / "model.safetensors")
    assert not [name for name in names if name.startswith(("norm.", "features."))]

    model = load_model(exp)
    assert certify(model, cuts, 3).certified
    decode_set(model, cuts, tmp_path / "decoded")
    lines = (tmp_path / "decoded" / "hypotheses.jsonl").read_text().splitlines()
    decoded = {one["id"]: one["hypothesis"] for one in map(json.loads, lines)}
    for cut in read_cuts(cuts):
        path = Path(cut.recording.sources[0].source)
        text = api.load(exp, device="cpu").transcribe(path).text
        assert text.split() == decoded[cut.id].split()
        windows = api.load(exp, device="cpu", window_s=1.0, overlap_s=0.4).transcribe(path)
        assert all(0 <= word.start_s <= word.end_s <= cut.duration for word in windows.words)
    with pytest.raises(
        InputError, match=r"^streaming: features\.kind = \w+ needs whole utterances"
    ):
        api.load(exp, device="cpu").stream()
