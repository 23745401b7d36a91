"""`asr align` on real speech of the synthesiser: words, files, and what cannot be aligned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchaudio
from lhotse import CutSet

from asr import config
from asr.cli import main
from asr.data.store.manifest import load_waveform, read_cuts
from asr.decode.align import NotAligned, align_file, align_set
from asr.model.folder import Model, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.search.words import START_SHIFT_S
from asr.text.tokenizer import train_tokenizer


@pytest.fixture(scope="module", params=["char", "bpe"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Untrained: its alignments are of no use to anybody, but as exact as any."""
    cfg = config.load(
        [],
        [
            "encoder.num_layers=1",
            "encoder.dim=32",
            "encoder.ff_dim=32",
            f"tokenizer.kind={request.param}",
            "tokenizer.vocab_size=40",
        ],
    )
    tokenizer = train_tokenizer(["the quick brown fox jumps over a lazy dog"], cfg.tokenizer)
    torch.manual_seed(0)
    exp = tmp_path_factory.mktemp("align") / "exp"
    save_model(exp / "model", Recogniser(cfg, tokenizer.vocab_size).state_dict(), cfg, tokenizer)
    return load_model(exp)


def test_words_are_where_torchaudio_aligns_them(model: Model, tiny_corpus: Path) -> None:
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    found = align_set(model, cuts, max_batch_s=10.0)
    units_spelt = model.tokenizer
    assert len(found) == len(list(read_cuts(cuts)))
    for cut, transcript in zip(read_cuts(cuts), found, strict=True):
        assert not isinstance(transcript, NotAligned)
        assert transcript.name == cut.id
        text = cut.supervisions[0].text.lower()
        assert transcript.text == text
        assert [word.text for word in transcript.words] == text.split()
        wave_bn = torch.from_numpy(load_waveform(cut, 16000))[None]
        with torch.inference_mode():
            log_probs, _ = model.net(wave_bn, torch.tensor([wave_bn.shape[1]]))
        tokens = units_spelt.encode(text)
        path, _ = torchaudio.functional.forced_align(log_probs, torch.tensor([tokens]), blank=0)
        spans = torchaudio.functional.merge_tokens(path[0], torch.zeros(path.shape[1]))
        pieces = [model.tokenizer.pieces[token] for token in tokens]
        begins = [
            span.start
            for number, (span, piece) in enumerate(zip(spans, pieces, strict=True))
            if piece.strip("▁") and (not number or piece[0] == "▁" or pieces[number - 1] == "▁")
        ]
        expected = [max(0.0, begin * 0.04 + START_SHIFT_S) for begin in begins]
        assert [word.start_s for word in transcript.words] == pytest.approx(expected)
        ends = [word.end_s for word in transcript.words]
        starts = [word.start_s for word in transcript.words[1:]]
        assert all(end <= start for end, start in zip(ends, starts, strict=False))
        assert ends[-1] <= transcript.duration_s + 0.04


def test_one_file_is_aligned_as_in_a_manifest(model: Model, tiny_corpus: Path) -> None:
    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    cut = next(iter(read_cuts(cuts)))
    path = Path(cut.recording.sources[0].source)
    alone = align_file(model, path, cut.supervisions[0].text + "!")
    (together, *_) = align_set(model, cuts)
    assert not isinstance(alone, NotAligned)
    assert not isinstance(together, NotAligned)
    assert [w.text for w in alone.words] == [w.text for w in together.words]
    assert [w.start_s for w in alone.words] == pytest.approx([w.start_s for w in together.words])


def test_the_command_writes_what_others_read(
    model: Model, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str]:
        code = main(["align", "--model", str(model.folder), *map(str, words)])
        return code, capsys.readouterr().err

    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    out = tmp_path / "out"
    assert run("--cuts", cuts, "--out", out, "--format", "ctm", "textgrid", "json") == (0, "")
    texts = {cut.id: cut.supervisions[0].text.lower() for cut in read_cuts(cuts)}
    lines = [line.split() for line in (out / "test.ctm").read_text().splitlines()]
    for name, text in texts.items():
        assert [line[4] for line in lines if line[0] == name] == text.split()
        grid = (out / "test" / f"{name}.TextGrid").read_text()
        assert all(f'text = "{word}"' in grid for word in text.split())
    objects = [json.loads(line) for line in (out / "test.json").read_text().splitlines()]
    assert {one["name"]: one["text"] for one in objects} == texts

    path = next(iter(read_cuts(cuts))).recording.sources[0].source
    one = ("--audio", path, "--out", tmp_path / "one")
    assert run(*one, "--text", "the dog")[0] == 0
    code, error = run(*one, "--text", "the dog " * 300)
    assert code == 2
    assert "frames, its sound has" in error
    error = run(*one, "--text", "the Ωμέγα dog")[1]
    assert "letters that the model never writes: 'έ', 'α', 'γ', 'μ', 'ω'" in error
    assert "not aligned: no text" in run(*one, "--text", "...")[1]
    assert "--audio goes with" in run(*one)[1]
    assert "--audio goes with" in run("--cuts", cuts, "--text", "x", "--out", out)[1]
    code, error = run("--cuts", cuts, "--out", out, "--format", "xls")
    assert (code, "format 'xls'" in error) == (2, True)


def test_formats_with_commas_and_manifests_by_other_names(
    model: Model, tiny_corpus: Path, tmp_path: Path
) -> None:
    """As `asr transcribe` takes formats; a Lhotse manifest need not end in .cuts.jsonl.gz."""
    cuts = list(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))[:1]
    for name in ("m.jsonl", "n.jsonl.gz", "o.cuts.jsonl"):
        CutSet.from_cuts(cuts).to_file(tmp_path / name)
        words = (
            "--cuts",
            tmp_path / name,
            "--out",
            tmp_path / "out",
            "--format",
            "CTM,json",
            "ctm",
        )
        assert main(["align", "--model", str(model.folder), *map(str, words)]) == 0
    names = {f"{name}.{suffix}" for name in "mno" for suffix in ("ctm", "json")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_folder_that_cannot_be_made_is_told_before_the_model_is_read(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    words = ["align", "--model", tmp_path, "--cuts", tiny_corpus / "test.cuts.jsonl.gz"]
    assert main([*map(str, words), "--out", str(tmp_path / "file")]) == 2
    assert "file: cannot make this folder" in capsys.readouterr().err


def test_a_text_that_is_not_what_is_said_is_doubted(
    model: Model, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is sure of having heard something else."""
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    weights["heads.ctc.linear.bias"][1:] -= 12.0
    save_model(tmp_path / "sure", weights, model.config, model.tokenizer)
    path = next(iter(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))).recording.sources[0].source
    words = ["--audio", path, "--text", "the dog", "--out", str(tmp_path)]
    for folder, doubted in ((tmp_path / "sure", True), (model.folder, False)):
        assert main(["align", "--model", str(folder), *words]) == 0
        error = capsys.readouterr().err
        assert ("median confidence of its words 0.000: is this the text" in error) == doubted
        assert (error == "") != doubted
