"""`asr align` on real speech of the synthesiser: words, files, and what cannot be aligned."""

from __future__ import annotations

import copy
import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchaudio
from lhotse import CutSet
from lhotse.cut import Cut

from asr import config
from asr.box import path_of
from asr.cli import main
from asr.data.store.manifest import load_waveform, read_cuts, write_cuts
from asr.decode.align import (
    Aligned,
    NotAligned,
    align_file,
    align_set,
    doubtful,
    write_alignments,
)
from asr.errors import InputError
from asr.model.folder import Model, load_model, save_model
from asr.model.recogniser import Recogniser
from asr.search.words import START_SHIFT_S
from asr.text.normalise import NORMALISERS
from asr.text.tokenizer import train_tokenizer
from asr.transcribe.formats import FORMATS
from asr.transcribe.result import Segment, Transcript, Word


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
    for cut, aligned in zip(read_cuts(cuts), found, strict=True):
        assert not isinstance(aligned, NotAligned)
        assert aligned.written.name == aligned.spoken.name == cut.id
        written = cut.supervisions[0].text
        assert aligned.written.text == written
        assert [word.text for word in aligned.written.words] == written.split()
        transcript, text = aligned.spoken, written.lower()
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
    first, second = alone.spoken.words, together.spoken.words
    assert [w.text for w in first] == [w.text for w in second]
    assert [w.start_s for w in first] == pytest.approx([w.start_s for w in second])


def test_the_command_writes_what_others_read(
    model: Model, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str]:
        code = main(["align", "--model", str(model.folder), *map(str, words)])
        return code, capsys.readouterr().err

    cuts = tiny_corpus / "test.cuts.jsonl.gz"
    out = tmp_path / "out"
    assert run("--cuts", cuts, "--out", out, "--format", "ctm", "textgrid", "json") == (0, "")
    texts = {cut.id: cut.supervisions[0].text for cut in read_cuts(cuts)}
    assert all(text != text.lower() for text in texts.values())
    lines = [line.split() for line in (out / "test.ctm").read_text().splitlines()]
    for name, text in texts.items():
        assert [line[4] for line in lines if line[0] == name] == text.lower().split()
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
    assert (
        "letters that the model never writes: 'Ω', 'μ', 'έ', 'γ', 'α' in 'Ωμέγα' (word 2)" in error
    )
    assert "not aligned: no text" in run(*one, "--text", "...")[1]
    assert "--audio goes with" in run(*one)[1]
    assert "--audio goes with" in run("--cuts", cuts, "--text", "x", "--out", out)[1]
    code, error = run(*one[:2], "--out", tmp_path / "none", "--text", "the d\udcffg")
    assert (code, error) == (2, "asr: error: --text: not UTF-8: 'the d\\udcffg'\n")
    assert not (tmp_path / "none").exists()
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
        assert ("mean confidence of its words 0.0000: is this the text" in error) == doubted
        assert (error == "") != doubted


def test_of_formats_of_which_one_cannot_be_written_none_is(tmp_path: Path) -> None:
    segment = Segment("d\udcffg", 0.0, 0.5, (Word("d\udcffg", 0.0, 0.5, 0.9),))
    written = Transcript("talk", segment.text, (segment,), 1.0)
    spoken = replace(written, text="dog", segments=(Segment("dog", 0.0, 0.5, ()),))
    with pytest.raises(InputError, match="TextGrid: cannot write"):
        write_alignments([Aligned(written, spoken)], tmp_path, "talk", ["ctm", "textgrid"])
    assert list(tmp_path.iterdir()) == []


SENTENCE = "\ufeff— The\u200b“lazy” fox, e.g. a\nfox-dog…"


@pytest.fixture
def aligned(model: Model, tiny_corpus: Path, tmp_path: Path) -> Path:
    """What the command writes of one sentence in every format."""
    path = next(iter(read_cuts(tiny_corpus / "test.cuts.jsonl.gz"))).recording.sources[0].source
    (tmp_path / "sound.txt").write_text(SENTENCE, encoding="utf-8")
    words = ["--audio", path, "--text-file", tmp_path / "sound.txt", "--out", tmp_path / "out"]
    words += ["--format", ",".join(FORMATS)]
    assert main(["align", "--model", str(model.folder), *map(str, words)]) == 0
    return tmp_path / "out" / Path(path).stem


def test_words_stay_as_written(aligned: Path) -> None:
    expected = ["— The", "“lazy”", "fox,", "e.g.", "a", "fox-dog…"]
    found = json.loads(aligned.with_suffix(".json").read_text())
    assert found["text"] == " ".join(expected)
    (segment,) = found["segments"]
    assert [word["text"] for word in segment["words"]] == expected
    grid = aligned.with_suffix(".TextGrid").read_text()
    assert all(f'text = "{word}"' in grid for word in expected)
    for suffix in (".srt", ".vtt", ".tsv", ".txt"):
        content = aligned.with_suffix(suffix).read_text()
        assert " ".join(expected) in " ".join(content.split())


def test_ctm_has_the_spoken_words_and_a_written_word_lasts_over_its_own(aligned: Path) -> None:
    lines = [line.split() for line in aligned.with_suffix(".ctm").read_text().splitlines()]
    assert [line[4] for line in lines] == ["the", "lazy", "fox", "e", "g", "a", "fox", "dog"]
    begins, ends, confidences = (
        [float(line[2]) for line in lines],
        [float(line[2]) + float(line[3]) for line in lines],
        [float(line[5]) for line in lines],
    )
    (segment,) = json.loads(aligned.with_suffix(".json").read_text())["segments"]
    for number, (first, last) in enumerate([(0, 0), (1, 1), (2, 2), (3, 4), (5, 5), (6, 7)]):
        word = segment["words"][number]
        assert (word["start_s"], word["end_s"]) == pytest.approx((begins[first], ends[last]))
        mean = (confidences[first] * confidences[last]) ** 0.5
        assert word["confidence"] == pytest.approx(mean, abs=2e-3)


def test_a_normaliser_across_words_gives_normalised_words_and_a_note(
    model: Model,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(
        NORMALISERS, "lowercase-apostrophe", lambda text: text.lower().replace("dog fox", "the")
    )
    cut = next(iter(read_cuts(tiny_corpus / "test.cuts.jsonl.gz")))
    words = ["--audio", cut.recording.sources[0].source, "--text", "A Dog Fox jumps"]
    words += ["--out", str(tmp_path), "--format", "txt"]
    assert main(["align", "--model", str(model.folder), *words]) == 0
    assert next(tmp_path.glob("*.txt")).read_text() == "a the jumps\n"
    assert "the normaliser does not work word by word" in capsys.readouterr().err


DATA = os.environ.get("SIGMOID_ASR_DATA")


@pytest.mark.skipif(DATA is None, reason="SIGMOID_ASR_DATA is unset: no real speech here")
@pytest.mark.parametrize("chapters", ["1737/146161", pytest.param("*/*", marks=pytest.mark.slow)])
def test_real_speech_with_another_text_is_doubted_and_with_its_own_never(
    chapters: str, tmp_path: Path
) -> None:
    """The hardest chapter, which is instructions for knitting, and all."""
    part = Path(str(DATA), "librispeech-mini/LibriSpeech/dev-clean-mini")
    corpus = tmp_path / "LibriSpeech"
    for chapter in part.glob(chapters):
        shutil.copytree(chapter, corpus / part.name / chapter.relative_to(part))
    words = ["librispeech", "--corpus", corpus, "--out", tmp_path]
    assert main(["prepare", *map(str, words), "--parts", part.name]) == 0
    own = list(read_cuts(tmp_path / f"{part.name}.cuts.jsonl.gz"))
    own.sort(key=lambda cut: len(cut.supervisions[0].text))
    others = copy.deepcopy(own)
    for cut, neighbour in zip(others, own[1:] + own[:1], strict=True):
        cut.supervisions[0].text = neighbour.supervisions[0].text
    different = [one != other for one, other in zip(map(said, own), map(said, others), strict=True)]
    assert sum(different) >= len(own) - 1  # two of them are of the same words
    model = load_model(path_of("real-en"))
    for name, cuts in (("own", own), ("others", others)):
        write_cuts(cuts, tmp_path / f"{name}.jsonl")
    for one in align_set(model, tmp_path / "own.jsonl"):
        assert isinstance(one, Aligned)
        assert doubtful(one) == ""
    found = align_set(model, tmp_path / "others.jsonl")
    for one in itertools.compress(found, different):
        assert isinstance(one, NotAligned) or doubtful(one)


def said(cut: Cut) -> str:
    return str(cut.supervisions[0].text)
