"""Whatever bytes a corpus' tables hold: a part, or InputError."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.data.corpora.common import split
from asr.data.corpora.kaldi import read_kaldi
from asr.data.corpora.tables import read_jsonl, read_tsv
from asr.data.store.preparation import Part, Utterance
from asr.errors import InputError

# Bytes that mean something to a reader, between any others.
pieces = st.one_of(
    st.sampled_from(
        [b"path\tsentence\n", b"a.wav", b"\t", b"\n", b"\r", b" ", b"\xff", b"\0", b"-1"]
    ),
    st.sampled_from(
        [b'{"audio_filepath": "a.wav", ', b'"text": "x"}', b'"offset": 1e999, ', b"NaN"]
    ),
    st.just("\u2028".encode()),
    st.binary(max_size=12),
)
content = st.lists(pieces, max_size=20).map(b"".join)


@pytest.mark.parametrize("read", [read_tsv, read_jsonl], ids=["tsv", "jsonl"])
@given(data=content)
@settings(max_examples=60, deadline=None)
def test_any_table(read: Callable[[Path], Part], data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.tsv")
        path.write_bytes(data)
        try:
            part = read(path)
        except InputError as error:
            message = str(error)
        else:
            message = ""
            assert part.name == "t"
            assert all(item.id for item in part.utterances)
            assert all("\n" not in item.text for item in part.utterances if read is read_tsv)
        assert "\n" not in message


@given(scp=content, text=content, segments=content)
@settings(max_examples=40, deadline=None)
def test_any_kaldi_directory(scp: bytes, text: bytes, segments: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in (("wav.scp", scp), ("text", text), ("segments", segments)):
            (folder / file).write_bytes(data)
        try:
            part = read_kaldi(folder)
        except InputError:
            return
        assert len({item.id for item in part.utterances}) == len(part.utterances)


@given(
    speakers=st.lists(st.sampled_from(["unknown", "a", "b", "c", "d", "e"]), max_size=40),
    dev=st.floats(0, 0.4, allow_subnormal=False),
    test=st.floats(0, 0.4, allow_subnormal=False),
)
@settings(max_examples=100, deadline=None)
def test_any_split(speakers: list[str], dev: float, test: float) -> None:
    items = [Utterance(f"u{k}", Path(f"{k}.wav"), "x", name) for k, name in enumerate(speakers)]
    try:
        parts = split(Part("all", items, []), dev, test)
    except InputError:
        assert len({name if name != "unknown" else k for k, name in enumerate(speakers)}) < 3
        return
    assert sorted(item.id for part in parts for item in part.utterances) == sorted(
        item.id for item in items
    )
    known = [{i.speaker for i in part.utterances} - {"unknown"} for part in parts]
    assert sum(map(len, known)) == len(set().union(*known))
