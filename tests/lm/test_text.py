"""Sentences from text and from manifests, whatever these are called."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from asr.data.manifest import read_cuts
from asr.errors import InputError
from asr.lm.text import read_sentences
from asr.text.normalise import Normaliser, get_normaliser

LOWER, NONE = get_normaliser("lowercase-apostrophe"), get_normaliser("none")
WORDS = [["hello", "brave", "new", "world"], ["hello", "there"]]


@pytest.mark.parametrize("between", [" ", "\t", "  ", " \t "])
@pytest.mark.parametrize("before", ["", " ", "\t"])
@pytest.mark.parametrize("normaliser", [LOWER, NONE])
def test_an_id_ends_at_any_white_space(
    between: str, before: str, normaliser: Normaliser, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    lines = [f"{before}utt-{k}{between}{' '.join(words)}" for k, words in enumerate(WORDS)]
    path.write_text("\n".join([*lines, "utt-without-text", "", " \n"]))
    assert list(read_sentences([path], normaliser, with_ids=True)) == WORDS


def test_a_byte_order_mark_is_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("hello there\n", encoding="utf-8-sig")
    assert list(read_sentences([path], NONE)) == [["hello", "there"]]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.txt", "x", "x.gz", "x.cuts.jsonl.gz"])
def test_manifests_are_known_by_their_content(name: str, tiny_corpus: Path, tmp_path: Path) -> None:
    source = tiny_corpus / "dev.cuts.jsonl.gz"
    content = gzip.decompress(source.read_bytes())
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    expected = [cut.supervisions[0].text.lower().split() for cut in read_cuts(source)]
    if name in ("x.txt", "x", "x.gz"):  # Lhotse reads no such name
        with pytest.raises(InputError, match=str(path)):
            list(read_sentences([path], LOWER))
        return
    for with_ids in (False, True):  # a manifest's texts have no ids to lose
        assert list(read_sentences([path], LOWER, with_ids)) == expected


@pytest.mark.parametrize("name", ["x.json", "x.yaml"])
def test_other_formats_of_manifests(name: str, tiny_corpus: Path, tmp_path: Path) -> None:
    cuts = read_cuts(tiny_corpus / "dev.cuts.jsonl.gz")
    cuts.to_file(tmp_path / name)
    expected = [cut.supervisions[0].text.lower().split() for cut in cuts]
    assert list(read_sentences([tmp_path / name], LOWER)) == expected


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x.jsonl"])
def test_other_json_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"audio_filepath": "a.wav", "text": "some words"}) + "\n")
    with pytest.raises(InputError, match=str(path)):
        list(read_sentences([path], LOWER))


@pytest.mark.parametrize(
    "line", ["{laughter} yes", "[noise] no", "12", '"quoted" words', "[", "{}x"]
)
def test_text_that_only_looks_like_json_is_text(line: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(f"a first line\n{line}\n")
    assert list(read_sentences([path], NONE)) == [["a", "first", "line"], line.split()]
    if line != "[":
        path.write_text(f"{line}\n")
        assert list(read_sentences([path], NONE)) == [line.split()]


def test_nothing_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    assert list(read_sentences([tmp_path / "empty.txt"], LOWER)) == []
    shutil.copy(tmp_path / "empty.txt", tmp_path / "bare.txt")
    (tmp_path / "bare.txt").write_text("")
    assert list(read_sentences([tmp_path / "bare.txt"], NONE)) == []
