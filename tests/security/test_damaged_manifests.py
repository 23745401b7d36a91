"""A damaged manifest is one line that names the file and where it is damaged, whoever reads it."""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from asr.data.audio.samples import AudioError
from asr.data.corpora.lhotse import read_lhotse_cuts
from asr.data.store import index
from asr.data.store import manifest as manifests
from asr.data.store.index import open_cuts
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError


@pytest.fixture(scope="module")
def good(tiny_corpus: Path) -> bytes:
    return (tiny_corpus / "test.cuts.jsonl.gz").read_bytes()


def complaint(read: Any, path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("large", [False, True])
def test_a_flipped_byte_is_an_error_or_changes_nothing(
    good: bytes, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deflate, its check sum and JSON in turn may be what breaks."""
    monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", 0 if large else 1 << 30)
    path = tmp_path / "a.cuts.jsonl.gz"
    path.write_bytes(good)
    whole = [cut.to_dict() for cut in open_cuts([path])]
    rng = random.Random(1)
    messages = []
    for at in [*range(10), *rng.sample(range(len(good)), 60), *range(len(good) - 8, len(good))]:
        damaged = bytearray(good)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert [cut.to_dict() for cut in open_cuts([path])] == whole
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 60
    assert [text for text in messages if str(path) not in text or "\n" in text] == []


@pytest.mark.parametrize("large", [False, True])
def test_a_truncated_one_names_the_last_good_line(
    good: bytes, large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", 0 if large else 1 << 30)
    path = tmp_path / "a.cuts.jsonl.gz"
    for share in (0.01, 0.3, 0.6, 0.99):
        path.write_bytes(good[: int(share * len(good))])
        assert "damaged after line" in complaint(lambda where: open_cuts([where]), path)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": "a", "type": "MonoCut", "start": 0.0',
        b"\xff\xfe\x00",
        b'"a"',
        b"[]",
        b"{}",
        b"1" * 5000,
        b"[" * 100_000,
        b'{"id": 5, "type": "MonoCut", "start": 0, "duration": 1, "channel": 0, "supervisions": []}',
        b'{"id": "a", "type": "MonoCut", "start": 0, "duration": "x", "channel": 0}',
        b'{"id": "a", "type": "MonoCut", "start": 0, "duration": NaN, "channel": 0}',
        b'{"id": "a", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0, "supervisions": 1}',
        b'{"id": "a", "type": "MonoCut", "start": 0, "duration": 1, "channel": 0, "recording": []}',
        b'{"id": "a", "type": "MixedCut", "tracks": [{}]}',
        b'{"id": "a", "type": "MonoCut", "unheard_of": 1}',
        b'{"id": "a", "type": "PaddingCut", "duration": 1}',
    ],
)
def test_a_bad_line_is_named(
    good: bytes, line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gzip.decompress(good).splitlines(keepends=True)[0]
    path = tmp_path / "a.cuts.jsonl.gz"
    path.write_bytes(gzip.compress(first + line + b"\n"))
    small = complaint(read_cuts, path)
    assert "line 2" in small or "cut 5" in small or "cut 'a'" in small
    monkeypatch.setattr(index, "INDEX_ABOVE_BYTES", 0)
    assert "line 2" in complaint(lambda where: open_cuts([where]), path)


def test_a_line_without_end_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "_MAX_LINE_BYTES", 1 << 20)
    path = tmp_path / "a.cuts.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (32 << 20)))
    assert "line 1 has more than 1048576 bytes" in complaint(read_cuts, path)
    whole = tmp_path / "a.json.gz"
    monkeypatch.setattr(manifests, "_MAX_BYTES", 1 << 20)
    whole.write_bytes(gzip.compress(b" " * (32 << 20)))
    assert "more than 1048576 bytes" in complaint(read_cuts, whole)


def test_yaml_that_expands_is_refused(tmp_path: Path) -> None:
    """Ten levels of ten copies each are ten thousand million lists."""
    levels = ["a0: &a0 [x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 11)]
    path = tmp_path / "a.yaml"
    path.write_text("- {" + ", ".join(levels) + "}\n")
    assert "aliases (*a0) are refused" in complaint(read_cuts, path)
    assert "aliases" in complaint(read_lhotse_cuts, path)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".json.gz", ".yaml"])
def test_every_format_gives_the_same(good: bytes, suffix: str, tmp_path: Path) -> None:
    from lhotse import CutSet

    (tmp_path / "a.cuts.jsonl.gz").write_bytes(good)
    cuts = read_cuts(tmp_path / "a.cuts.jsonl.gz")
    path = tmp_path / f"b{suffix}"
    CutSet.from_cuts(cuts).to_file(path)
    expected = [json.loads(line) for line in gzip.decompress(good).splitlines()]
    assert [cut.to_dict() for cut in read_cuts(path)] == expected


@pytest.mark.parametrize("text", [30_000 * "- " + "a", 30_000 * "[", 30_000 * "{a: "])
def test_deep_yaml_is_refused(text: str, tmp_path: Path) -> None:
    """PyYAML's reader in C ends the process."""
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert "more than 32 deep" in complaint(read_cuts, path)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.yaml.gz"])
@pytest.mark.parametrize("read", [read_cuts, lambda path: list(open_cuts([path]))])
def test_a_few_packed_bytes_do_not_stand_for_gigabytes(
    name: str, read: Any, good: bytes, tmp_path: Path
) -> None:
    path = tmp_path / name
    item = json.loads(gzip.decompress(good).splitlines()[0]) | {"custom": {"x": "0" * (1 << 20)}}
    lines = [json.dumps(item | {"id": str(number)}) + "\n" for number in range(32)]
    path.write_bytes(gzip.compress("".join(lines).encode()))
    assert "unpacks to more than 300 times its size" in complaint(read, path)
    if "jsonl" in name:
        path.write_bytes(gzip.compress(b"\n" * (32 << 20)))
        assert "empty lines" in complaint(read, path)


def test_a_transform_whose_package_is_missing_costs_the_utterance(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyloudnorm", None)  # not installed
    item = json.loads(gzip.decompress(good).splitlines()[0])
    loudness = {"name": "LoudnessNormalization", "kwargs": {"target": -23.0}}
    path = tmp_path / "a.jsonl"
    for transformed in (
        item | {"recording": item["recording"] | {"transforms": [loudness]}},
        {
            "type": "MixedCut",
            "id": "a",
            "tracks": [{"cut": item, "type": "MonoCut", "offset": 0.0}],
            "transforms": [loudness],
        },
    ):
        path.write_text(json.dumps(transformed))
        (cut,) = read_cuts(path)
        with pytest.raises(AudioError, match="cannot be loaded"):
            load_waveform(cut, 16000)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that gives EIO")
def test_a_file_that_the_disk_does_not_give_costs_the_utterance(
    good: bytes, tmp_path: Path
) -> None:
    item = json.loads(gzip.decompress(good).splitlines()[0])
    item["recording"]["sources"][0]["source"] = "/proc/self/mem"
    (tmp_path / "a.jsonl").write_text(json.dumps(item))
    (cut,) = read_cuts(tmp_path / "a.jsonl")
    with pytest.raises(AudioError, match=r"/proc/self/mem: cannot be read: Input/output error"):
        load_waveform(cut, 16000)
