"""`asr decode --chunk`: the text and the latency of a stream, for a whole manifest at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asr import config
from asr.cli import main
from asr.data.store.manifest import load_waveform, read_cuts
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.model.stream import FrameStream
from asr.search.greedy import greedy
from asr.text.tokenizer import train_tokenizer

SMALL = ["encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "tokenizer.kind=char"]
CHUNKS = [
    "encoder.causal=true",
    "encoder.conv_kernel=7",
    "encoder.chunk_sizes=[0,4,8]",
    "encoder.left_chunks=[1,3]",
]


def saved(folder: Path, options: list[str]) -> Path:
    """An untrained model: its words are noise, but the same noise every time."""
    cfg = config.load([], [*SMALL, *options])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    net.heads["ctc"].linear.weight.data.mul_(100)  # sure of something else in every frame
    save_model(folder / "model", net.state_dict(), cfg, tokenizer)
    return folder


def test_decoding_in_chunks_is_what_a_stream_hears(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp, cuts = saved(tmp_path / "live", CHUNKS), tiny_corpus / "test.cuts.jsonl.gz"

    def decode(*words: object) -> tuple[list[str], dict]:
        out = tmp_path / "out"
        common = ("--model", exp, "--cuts", cuts, "--out", out, "--threads", 1)
        assert main(["decode", *map(str, (*common, *words))]) == 0
        lines = map(json.loads, (out / "hypotheses.jsonl").read_text().splitlines())
        return [line["hypothesis"] for line in lines], json.loads((out / "decode.json").read_text())

    model = load_model(exp)
    for words, chunk in ((("--chunk", 4, "--left-chunks", 1), (4, 1)), (("--chunk", 8), (8, 3))):
        expected = []
        for cut in read_cuts(cuts):
            stream = FrameStream(model.net, model.config, chunk)
            wave_n = torch.from_numpy(load_waveform(cut, 16000))
            parts = [stream.feed(part_n) for part_n in wave_n.split(5001)]
            log_probs_tv = torch.cat([*parts, stream.finish()])
            (best,) = greedy(log_probs_tv[None], torch.tensor([len(log_probs_tv)]))
            expected.append(model.tokenizer.decode(best.tokens))
        texts, settings = decode(*words)
        assert texts == expected
        assert (settings["chunk"], settings["left_chunks"]) == chunk
        # a chunk of 40 ms frames, and the 15 ms by which the last window reaches beyond it
        assert settings["latency_s"] == pytest.approx(0.04 * chunk[0] + 0.015)
    whole, settings = decode()
    assert whole != expected
    assert "latency_s" not in settings
    capsys.readouterr()
    for folder, words, message in (
        (exp, ("--chunk", 5), "was trained with 4, 8"),
        (saved(tmp_path / "whole", []), ("--left-chunks", 1), "this one saw whole utterances"),
    ):
        common = ("--model", folder, "--cuts", cuts, "--out", tmp_path / "no", "--threads", 1)
        assert main(["decode", *map(str, (*common, *words))]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "no").exists()
