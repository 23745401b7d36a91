"""A model with a CTC head and an attention decoder, by every search it has, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asr
from asr import config
from asr.cli import main
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError
from asr.model.folder import load_model, save_model
from asr.model.recogniser import Recogniser
from asr.search.options import SearchOptions
from asr.search.weights import Tuned, Weights, read_tuned, write_tuned
from asr.text.tokenizer import train_tokenizer

SMALL = [
    *("encoder.num_layers=1", "encoder.dim=32", "encoder.ff_dim=32", "encoder.conv_kernel=7"),
    *("tokenizer.kind=char", "encoder.causal=true", "encoder.chunk_sizes=[0,8]"),
]
DECODER = ["decoder.num_layers=1", "decoder.ff_dim=32", "decoder.cross_weighting=sigmoid"]
SEARCHES = [
    ("--head", "attention", "--search", "greedy"),
    ("--head", "attention", "--search", "beam", "--beam", "3"),
    ("--search", "rescore", "--beam", "3", "--ctc-weight", "0.4"),
    ("--search", "joint", "--beam", "3", "--ctc-weight", "0.4"),
]


def saved(folder: Path, heads: str, *options: str) -> Path:
    """An untrained model that is sure of its noise."""
    own = DECODER if "attention" in heads else []
    cfg = config.load([], [*SMALL, *own, f"model.heads=[{heads}]", *options])
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    net = Recogniser(cfg, tokenizer.vocab_size)
    for name, weight in net.heads.named_parameters():
        if "norm" not in name:
            weight.data.mul_(3)
    save_model(folder / "model", net.state_dict(), cfg, tokenizer)
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("both"), "ctc,attention")


def decode(exp: Path, cuts: Path, out: Path, *words: str) -> list[dict[str, Any]]:
    common = ("--model", exp, "--cuts", cuts, "--out", out, "--threads", 1, "--overwrite")
    assert main(["decode", *map(str, (*common, *words))]) == 0
    return [json.loads(line) for line in (out / "hypotheses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("words", SEARCHES)
def test_batches_change_no_transcript(
    both: Path, tiny_corpus: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    alone = decode(both, cuts, tmp_path / "alone", *words, "--max-batch-s", "0.1")
    together = decode(both, cuts, tmp_path / "together", *words)
    for one, other in zip(alone, together, strict=True):
        assert one["hypothesis"] == other["hypothesis"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-3)
    settings = json.loads((tmp_path / "alone" / "decode.json").read_text())
    assert settings["head"] == "attention"
    assert settings["search"] in words
    assert settings.get("ctc_weight") == (0.4 if "0.4" in words else None)


@pytest.mark.parametrize("search", ["rescore", "joint"])
def test_a_score_is_the_mixture_of_both_heads_losses(
    both: Path, tiny_corpus: Path, search: str
) -> None:
    model = load_model(both)
    weight = 0.4
    from asr.search.factory import build_search

    found = build_search(SearchOptions(search, beam=4, num_best=4, ctc_weight=weight), model)
    attention, ctc = model.net.head("attention"), model.net.head("ctc")
    for cut in read_cuts(tiny_corpus / "test.cuts.jsonl.gz"):
        wave_n = torch.from_numpy(load_waveform(cut, 16000))
        with torch.no_grad():
            frames_bsd, lens_b = model.net(
                wave_n[None], torch.tensor([len(wave_n)]), head="attention"
            )
            (several,) = found(frames_bsd, lens_b)
            assert several
            for one in several:
                said = torch.tensor([one.tokens], dtype=torch.long)
                count = torch.tensor([len(one.tokens)])
                decoder = attention.loss_of_frames(frames_bsd, lens_b, said, count)
                log_probs = ctc.frames(frames_bsd).double()
                aligned = ctc.loss_of_frames(log_probs, lens_b, said, count)
                expected = -(1 - weight) * float(decoder) - weight * float(aligned)
                assert one.score == pytest.approx(expected, abs=2e-3)
                assert len(one.frames) == len(one.tokens)
                assert list(one.frames) == sorted(one.frames)


@pytest.mark.parametrize(
    "search",
    [
        SearchOptions("joint", 3),
        SearchOptions("rescore", 3, num_best=2),
        SearchOptions("beam", 3, head="attention"),
    ],
)
def test_files_and_streams_are_read_by_both_heads(
    both: Path, tiny_corpus: Path, search: SearchOptions
) -> None:
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))
    wave_n = np.concatenate([load_waveform(cut, 16000) for cut in cuts])
    transcriber = asr.load(both, "cpu", search=search)
    transcript = transcriber.transcribe(wave_n, 16000)
    words = [word for segment in transcript.segments for word in segment.words]
    assert words
    assert transcript.text.split() == [word.text for word in words]
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)
    assert words[-1].end_s <= len(wave_n) / 16000 + 0.1
    stream = transcriber.stream(16000, chunk=8)
    results = [one for part_n in np.array_split(wave_n, 7) for one in stream.feed(part_n)]
    results += stream.finish()
    assert any(one.is_final and one.segment.words for one in results)


def test_what_a_model_lacks_is_refused(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], both: Path
) -> None:
    cuts = str(tiny_corpus / "test.cuts.jsonl.gz")

    def refused(exp: Path, *words: str) -> str:
        assert main(["decode", "--model", str(exp), "--cuts", cuts, *words]) == 2
        return capsys.readouterr().err

    ctc = saved(tmp_path / "ctc", "ctc")
    message = "the ctc head has greedy, beam; joint is of attention, model.heads = ['ctc']"
    assert message in refused(ctc, "--search", "joint")
    message = "this model has no attention head: choose one of its heads, ctc"
    assert message in refused(ctc, "--head", "attention")
    message = "this model has no decoder head: choose one of its heads, ctc, attention"
    assert message in refused(both, "--head", "decoder")
    assert "greedy search has no beam" in refused(both, "--beam", "8")
    assert "ctc_weight = 1.5: must be from 0 to 1" in refused(
        both, "--search", "joint", "--ctc-weight", "1.5"
    )
    message = "ctc_weight = 0.5: only rescore and joint read it"
    assert message in refused(both, "--search", "beam", "--ctc-weight", "0.5")
    alone = saved(tmp_path / "alone", "attention")
    assert "this model has no ctc head" in refused(alone, "--search", "joint")
    assert len(decode(alone, Path(cuts), tmp_path / "out")) > 0
    with pytest.raises(InputError, match="need a head that places words in time"):
        asr.load(alone, "cpu").stream(16000)
    whole = saved(tmp_path / "whole", "attention", "encoder.chunk_sizes=[0]")
    with pytest.raises(InputError, match="need a head that places words in time"):
        asr.load(whole, "cpu").stream(16000)


def test_a_decoder_alone_places_its_words(tiny_corpus: Path, tmp_path: Path) -> None:
    alone = saved(tmp_path / "alone", "attention")
    wave_n = np.concatenate(
        [load_waveform(cut, 16000) for cut in read_cuts(tiny_corpus / "test.cuts.jsonl.gz")]
    )
    transcriber = asr.load(alone, "cpu")
    transcript = transcriber.transcribe(wave_n, 16000)
    assert transcript.text.split() == [word.text for word in transcript.words]
    starts = [word.start_s for word in transcript.words]
    assert starts == sorted(starts)
    assert all(0 < word.confidence <= 1 for word in transcript.words)
    assert not any("cut every" in note for note in transcript.notes)
    long_n = np.tile(wave_n, 1 + 31 * 16000 // len(wave_n))
    longer = transcriber.transcribe(long_n, 16000)
    assert any("cut every 30 s" in note for note in longer.notes)
    assert longer.words[-1].end_s <= len(long_n) / 16000


@pytest.mark.parametrize("with_lm", [False, True])
@pytest.mark.parametrize("search", ["rescore", "joint"])
def test_tuned_shares_are_what_decoding_takes(
    both: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    search: str,
    with_lm: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    exp = shutil.copytree(both, tmp_path / "exp")
    dev, lm = tiny_corpus / "dev.cuts.jsonl.gz", tmp_path / "lm.arpa.gz"
    text = str(tiny_corpus / "train.cuts.jsonl.gz")
    assert main(["lm", "train", "--text", text, "--out", str(lm)]) == 0
    words = ["--search", search, "--beam", "3", *(["--lm", str(lm)] if with_lm else [])]
    before = Tuned("lm.arpa.gz", "0" * 64, Weights(0.3, 0.25, 8.0), 4, "dev", 0.1)
    write_tuned(before, exp / "model")
    assert main(["tune", "--model", str(exp), "--cuts", str(dev), "--threads", "1", *words]) == 0
    tuned = read_tuned(exp / "model", search)
    assert tuned is not None
    assert tuned.first.ctc_weight is not None
    assert read_tuned(exp / "model") == before, "other searches keep their weights"
    assert "replaces" not in capsys.readouterr().err
    found = decode(exp, dev, tmp_path / "out", *words, "--num-best", "3")
    score = json.loads((tmp_path / "out" / "score.json").read_text())
    assert score["wer"] == pytest.approx(tuned.wer)
    settings = json.loads((tmp_path / "out" / "decode.json").read_text())
    assert settings["weights"] == "tuned"
    assert settings["ctc_weight"] == tuned.first.ctc_weight
    for line in found:
        for one in line["nbest"]:
            share = tuned.first.ctc_weight
            acoustic = share * one["ctc"] + (1 - share) * one["decoder"]
            assert one["acoustic"] == pytest.approx(acoustic, abs=2e-3)
    if with_lm:
        cuts = ["--model", str(exp), "--cuts", str(dev), "--threads", "1"]
        assert main(["tune", *cuts, "--search", search, "--beam", "2"]) == 0
        message = f"this replaces what was tuned for {search} with lm.arpa.gz"
        assert message in capsys.readouterr().err
    (exp / "model" / "search.yaml").write_text("searches: {joint: 3, rescore: 3}")
    cuts = ["--model", str(exp), "--cuts", str(dev)]
    assert main(["decode", *cuts, "--out", str(tmp_path / "no"), *words]) == 2


def test_what_cannot_be_tuned_is_refused(
    both: Path, tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dev = str(tiny_corpus / "dev.cuts.jsonl.gz")

    def refused(*words: str) -> str:
        assert main(["tune", "--model", str(both), "--cuts", dev, *words]) == 2
        return capsys.readouterr().err

    message = "needs a language model, --lm, or one of --search rescore, joint"
    assert message in refused("--head", "attention")
    message = "ctc_weight = 0: both heads must have a share where tuning begins"
    assert message in refused("--search", "joint", "--ctc-weight", "0")


def test_words_of_a_decoder_that_repeats_itself_are_doubted(
    both: Path, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exp = shutil.copytree(both, tmp_path / "exp")
    model = load_model(exp)
    weights = model.net.state_dict()
    weights["heads.attention.decoder.output.weight"].zero_()
    bias_v = weights["heads.attention.decoder.output.bias"]
    bias_v.fill_(-9.0)
    bias_v[model.tokenizer.encode("a")[0]] = 9.0
    shutil.rmtree(exp)
    save_model(exp / "model", weights, model.config, model.tokenizer)
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    words = ("--head", "attention", "--search", "greedy")
    found = decode(exp, cuts, tmp_path / "out", *words)
    assert {one["hypothesis"] for one in found} == {"a" * 24}
    warned = capsys.readouterr().err
    assert f"{len(found)} of {len(found)} transcripts were ended by the search" in warned
    assert "it repeats itself" in warned
    cut = next(iter(read_cuts(cuts)))
    wave_n = load_waveform(cut, 16000)
    search = SearchOptions("greedy", head="attention")
    transcript = asr.load(exp, "cpu", search=search).transcribe(wave_n, 16000)
    assert "a" * 24 in transcript.text.split()
    assert any("the search had to end their transcript: it repeats" in n for n in transcript.notes)
    assert "it repeats itself" in [one.get("note") for one in transcript.to_dict()["segments"]]
