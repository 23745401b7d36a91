"""Sentences from text and from manifests, whatever these are called."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.store.manifest import read_cuts
from asr.errors import InputError
from asr.lm.arpa import MAX_WORD_BYTES, read_arpa, write_arpa
from asr.lm.kneser_ney import MAX_ORDER, estimate
from asr.lm.text import read_sentences
from asr.text.normalise import Normaliser, get_normaliser

LOWER, NONE = get_normaliser("lowercase-apostrophe"), get_normaliser("none")
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lambda content: lzma.compress(content, preset=0),
}
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


OTHER_FORMATS = {
    "cv.tsv": "client_id\tpath\tsentence\nabc\tx.mp3\thello world\n",
    "cv.txt": "client_id\tpath\tsentence\nabc\tx.mp3\thello world\n",
    "text.csv": 'path,text\nx.wav,"hello, world"\n',
    "a.srt": "1\n00:00:01,000 --> 00:00:02,000\nhello world\n",
    "srt.txt": "1\n00:00:01,000 --> 00:00:02,000\nhello world\n",
    "a.VTT": "WEBVTT\n\n00:01.000 --> 00:02.000\nhello world\n",
    "vtt.txt": "\ufeffWEBVTT\n\nhello world\n",
    "a.html": "<p>hello world</p>\n",
    "html.txt": "<!DOCTYPE html>\n<p>hello world</p>\n",
    "html": "<HTML><body><p>hello world</p></body></html>\n",
    "xml.txt": '<?xml version="1.0"?>\n<p>hello</p>\n',
    "a.xml": "<p>hello</p>\n",
    "a.stm": "file 1 spk 0.0 1.0 <o> hello world\n",
    "a.trn": "hello world (spk1-utt1)\n",
    "a.json": '"hello world"\n',
    "a.jsonl": '["hello", "world"]\n',
    "arpa.txt": "\n\\data\\\nngram 1=3\n",
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
@pytest.mark.parametrize("packing", PACKINGS)
def test_what_is_no_plain_text_is_refused(name: str, packing: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(PACKINGS[packing](OTHER_FORMATS[name].encode()))
    for with_ids in (False, True):
        with pytest.raises(InputError, match="not a sentence per line; write its") as caught:
            list(read_sentences([path], LOWER, with_ids))
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "go --> there",
        "a path\tto text",
        "<noise> yes",
        "sentence path text",
        "webinar",
        "1:30 --> x",
    ],
)
def test_text_that_only_looks_like_another_format_is_text(text: str, tmp_path: Path) -> None:
    path = tmp_path / "text.v2"
    path.write_text(f"{text}\n" * 20)
    assert list(read_sentences([path], NONE)) == [text.split()] * 20


def test_a_word_that_no_model_holds_is_refused(tmp_path: Path) -> None:
    """And the longest that is taken makes a model that its own reader reads."""
    path, out = tmp_path / "text.txt", tmp_path / "a.arpa"
    words = [letter * (MAX_WORD_BYTES // 2) for letter in "éèêëàâ"]
    path.write_text(f"hello\n\n{' '.join(words)}\n")
    sentences = list(read_sentences([path], LOWER))
    write_arpa(estimate(sentences, MAX_ORDER)[0], out)
    assert set(words) < set(read_arpa(out).words)
    path.write_text(f"hello\n\n{words[0]}x b\n")
    with pytest.raises(InputError, match=r"text\.txt, line 3: a word of 8193 bytes; at most 8192"):
        list(read_sentences([path], LOWER))


def test_ids_and_texts_in_a_tsv_are_text(tmp_path: Path) -> None:
    path = tmp_path / "text.tsv"
    path.write_text("a-1\tthe cat\na-2\ta dog\n")
    assert [*read_sentences([path], LOWER, with_ids=True)] == [
        ["the", "cat"],
        ["a", "dog"],
    ]
    path.write_text("client_id\tpath\tsentence\nx\ta.mp3\tthe cat\n")
    with pytest.raises(InputError, match="a table"):
        list(read_sentences([path], LOWER, with_ids=True))


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_text_is_read(packing: str, tmp_path: Path) -> None:
    path = tmp_path / f"text.txt{packing}"
    path.write_bytes(PACKINGS[packing]("hello brave new world\nhello thére\n".encode()))
    assert list(read_sentences([path], LOWER)) == [WORDS[0], ["hello", "thére"]]


def test_parts_of_an_xz_file_are_one_text(tmp_path: Path) -> None:
    (tmp_path / "text.xz").write_bytes(lzma.compress(b"hello there\n") + lzma.compress(b"a b\n"))
    assert list(read_sentences([tmp_path / "text.xz"], LOWER)) == [["hello", "there"], ["a", "b"]]


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["cut", "other", "changed"])
def test_damaged_packed_text_is_refused(suffix: str, damage: str, tmp_path: Path) -> None:
    path = tmp_path / f"text.txt{suffix}"
    whole = PACKINGS[suffix](b"hello there\n" * 1000)
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    path.write_bytes({"cut": whole[:-20], "other": b"hello there\n", "changed": changed}[damage])
    with pytest.raises(InputError, match=r"text\.txt\..z: cannot read: ") as caught:
        list(read_sentences([path], LOWER))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\n" * (40 << 20), b"a" * (40 << 20), b"a b\n" * (10 << 20)])
@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_a_small_file_that_unpacks_to_a_large_one_is_refused(
    suffix: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / f"text.txt{suffix}"
    path.write_bytes(PACKINGS[suffix](content))
    with pytest.raises(InputError, match=r"unpacks to more than 300 times|no sentence"):
        for _ in read_sentences([path], NONE):
            pass


def test_a_line_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("fine\n" + "word " * 300_000)
    with pytest.raises(InputError, match="line 2: no sentence"):
        list(read_sentences([path], NONE))
