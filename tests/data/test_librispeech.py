"""LibriSpeech's layout: what is in it, what is wrong with it, and fetching it."""

import functools
import hashlib
import http.server
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile

from asr.data.corpora import librispeech
from asr.data.corpora.librispeech import download_librispeech, prepare_librispeech
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError

RATE = 16000
SUBTYPES = {"ogg": "VORBIS", "opus": "OPUS"}


def add(corpus: Path, key: str, text: str | None = "SOME WORDS", suffix: str = "flac") -> Path:
    """One second of noise as ``<part>/<speaker>-<chapter>-<utterance>`` and its transcript."""
    part, _, name = key.rpartition("/")
    speaker, chapter, _ = name.split("-")
    folder = corpus / part / speaker / chapter
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.{suffix}"
    samples = np.random.default_rng(int(chapter)).uniform(-0.3, 0.3, RATE)
    kind = "OGG" if suffix in SUBTYPES else suffix.upper()
    soundfile.write(path, samples, RATE, format=kind, subtype=SUBTYPES.get(suffix))
    if text is not None:
        with open(folder / f"{speaker}-{chapter}.trans.txt", "a") as file:
            file.write(f"{name} {text}\n")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    root = tmp_path / "corpus"
    for number, suffix in enumerate(("flac", "wav", "opus", "ogg", "mp3")):
        add(root, f"train-x/8-10-000{4 - number}", f"TEXT {number}", suffix)
    add(root, "train-x/12-3-0000")
    add(root, "dev-y/9-1-0000", "IT'S MIXED Case")
    (root / "SPEAKERS.TXT").write_text("; not a part\n")
    (root / "extras" / "notes").mkdir(parents=True)
    return root


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_all_parts_in_every_format(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reports = prepare_librispeech(corpus, out)
    assert [(r.part, r.num_utterances, r.num_speakers) for r in reports] == [
        ("dev-y", 1, 1),
        ("train-x", 6, 2),
    ]
    assert reports[1].duration_s == pytest.approx(6.0, abs=0.01)
    assert not any(report.left_out for report in reports)
    cuts = read_cuts(out / "train-x.cuts.jsonl.gz")
    assert [cut.id for cut in cuts] == ["12-3-0000"] + [f"8-10-000{n}" for n in range(5)]
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert supervision.speaker == cut.id.split("-")[0]
        assert len(load_waveform(cut, RATE)) == cut.num_samples
    assert cuts[1].supervisions[0].text == "TEXT 4"
    dev = read_cuts(out / "dev-y.cuts.jsonl.gz")
    assert dev[0].supervisions[0].text == "IT'S MIXED Case"  # normalising comes later


def test_a_second_run_gives_the_same_bytes_whatever_the_jobs(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_librispeech(corpus, out, num_jobs=1)
    first = contents(out)
    prepare_librispeech(corpus, out, num_jobs=4)
    assert contents(out) == first
    assert len(first) == 4  # two manifests, two reports, nothing temporary


def test_the_parent_of_librispeech_will_do(corpus: Path, tmp_path: Path) -> None:
    corpus.rename(tmp_path / "LibriSpeech")
    reports = prepare_librispeech(tmp_path, tmp_path / "out", ["dev-y"])
    assert [report.part for report in reports] == ["dev-y"]


def test_relative_corpus_gives_absolute_paths(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_librispeech(Path("corpus"), Path("out"), ["dev-y"])
    source = read_cuts(tmp_path / "out" / "dev-y.cuts.jsonl.gz")[0].recording.sources[0].source
    assert source == str(corpus / "dev-y" / "9" / "1" / "9-1-0000.flac")


def test_everything_left_out_is_named_with_its_reason(corpus: Path, tmp_path: Path) -> None:
    add(corpus, "train-x/8-10-0010", text=None)
    trans = corpus / "train-x" / "8" / "10" / "8-10.trans.txt"
    with open(trans, "a") as file:
        file.write("8-10-0011 NO AUDIO HERE\n8-10-0012\n8-10-0004 SAID TWICE\n\n")
    add(corpus, "train-x/8-10-0012", text=None)
    cut_off = add(corpus, "train-x/8-10-0013")
    cut_off.write_bytes(cut_off.read_bytes()[:9000])
    add(corpus, "train-x/8-10-0014").write_bytes(b"")
    nan = add(corpus, "train-x/8-10-0015", suffix="wav")
    soundfile.write(nan, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    add(corpus, "train-x/8-10-0016", "X" * 26)
    add(corpus, "train-x/8-10-0000", text=None, suffix="wav")
    bad_text = corpus / "train-x" / "8" / "11"
    bad_text.mkdir()
    (bad_text / "8-11.trans.txt").write_bytes(b"8-11-0000 \xff\xfe\n")
    out = tmp_path / "out"
    (report,) = prepare_librispeech(corpus, out, ["train-x"])
    assert sorted((item.id, item.reason) for item in report.left_out) == [
        ("8-10-0000", "duplicate id"),
        ("8-10-0004", "duplicate id"),
        ("8-10-0010", "audio without transcript"),
        ("8-10-0011", "transcript without audio"),
        ("8-10-0012", "empty transcript"),
        ("8-10-0013", "truncated audio"),
        ("8-10-0014", "empty audio"),
        ("8-10-0015", "NaN or infinite samples"),
        ("8-10-0016", "transcript too long for CTC"),
        ("8-11.trans.txt:1", "unreadable transcript"),
    ]
    assert report.num_utterances == 6
    stored = json.loads((out / "train-x.report.json").read_text())
    assert {item["id"] for item in stored["left_out"]} == {item.id for item in report.left_out}
    text = "\n".join(report.lines())
    assert all(reason in text for reason in report.counts())


def test_without_decoding_a_truncated_file_passes(corpus: Path, tmp_path: Path) -> None:
    path = add(corpus, "train-x/8-10-0013")
    path.write_bytes(path.read_bytes()[:9000])
    (report,) = prepare_librispeech(corpus, tmp_path / "out", ["train-x"], check_audio=False)
    assert report.num_utterances == 7


def complaint(corpus: Path, out: Path, parts: list[str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        prepare_librispeech(corpus, out, parts)
    message = str(caught.value)
    assert "\n" not in message
    assert not out.exists()  # nothing half-written
    return message


def test_bad_corpora_and_parts_get_one_line(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert str(tmp_path / "nowhere") in complaint(tmp_path / "nowhere", out)
    (tmp_path / "void").mkdir()
    assert "layout" in complaint(tmp_path / "void", out)
    message = complaint(corpus, out, ["dev-y", "trian-x"])
    assert "did you mean train-x?" in message
    assert "known: dev-y, train-x" in message
    (corpus / "hollow" / "1" / "2").mkdir(parents=True)
    for part in ("hollow", "extras"):
        assert "empty part" in complaint(corpus, out, [part])
    assert "empty part" in complaint(corpus, out, ["dev-y", "hollow"])
    add(corpus, "silent/1-2-0000").write_bytes(b"")
    assert "1 x empty audio" in complaint(corpus, out, ["silent"])


def test_an_out_that_cannot_be_written_and_bad_jobs(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot make this folder"):
        prepare_librispeech(corpus, tmp_path / "file", ["dev-y"])
    with pytest.raises(InputError, match="num_jobs"):
        prepare_librispeech(corpus, tmp_path / "out", ["dev-y"], num_jobs=-1)


def test_tabs_line_ends_and_byte_order_marks(corpus: Path, tmp_path: Path) -> None:
    for number in range(3):
        add(corpus, f"dev-y/9-2-000{number}", text=None)
    (corpus / "dev-y" / "9" / "2" / "9-2.trans.txt").write_bytes(
        b"\xef\xbb\xbf9-2-0000 ONE\r\n9-2-0001\tTWO\r\n9-2-0002   THREE"
    )
    prepare_librispeech(corpus, tmp_path / "out", ["dev-y"])
    cuts = read_cuts(tmp_path / "out" / "dev-y.cuts.jsonl.gz")
    assert [cut.supervisions[0].text for cut in cuts][1:] == ["ONE", "TWO", "THREE"]


def test_an_empty_part_alone_in_its_corpus(tmp_path: Path) -> None:
    (tmp_path / "corpus" / "only").mkdir(parents=True)
    assert "empty part" in complaint(tmp_path / "corpus", tmp_path / "out", ["only"])


# Real speech


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("SIGMOID_ASR_DATA")
    if not folder:
        pytest.skip("SIGMOID_ASR_DATA is not set: no real speech here")
    path = Path(folder) / "librispeech-mini"
    assert path.is_dir(), f"SIGMOID_ASR_DATA has no {path}"
    return path


def test_real_librispeech_parts(real: Path, tmp_path: Path) -> None:
    reports = prepare_librispeech(real, tmp_path, ["test-clean-mini", "dev-clean-mini"])
    found = [(r.part, r.num_utterances, r.num_speakers, len(r.left_out)) for r in reports]
    assert found == [("test-clean-mini", 160, 4, 0), ("dev-clean-mini", 141, 5, 0)]
    assert [report.hours for report in reports] == pytest.approx([0.585, 0.47], abs=0.01)
    words = sum(
        len(cut.supervisions[0].text.split())
        for cut in read_cuts(tmp_path / "test-clean-mini.cuts.jsonl.gz")
    )
    assert words == 6048


def test_real_opus_part_by_its_headers(real: Path, tmp_path: Path) -> None:
    (report,) = prepare_librispeech(real, tmp_path, ["train-clean-6"], check_audio=False)
    assert (report.num_utterances, report.num_speakers, report.left_out) == (1790, 242, ())
    assert report.hours == pytest.approx(6.14, abs=0.01)
    cut = read_cuts(tmp_path / "train-clean-6.cuts.jsonl.gz")[0]
    assert len(load_waveform(cut, RATE)) == cut.num_samples


# Download, from a server on this machine


class ServerWithRanges(http.server.SimpleHTTPRequestHandler):
    """As OpenSLR does, and Python's own does not, it can start in the middle of a file."""

    ranges: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        self.ranges.append(asked)
        content = path.read_bytes()[int(asked.removeprefix("bytes=").removesuffix("-")) :]
        self.send_response(206 if content else 416)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    site = tmp_path / "site" / "31"
    site.mkdir(parents=True)
    source = tmp_path / "source"
    add(source / "LibriSpeech", "dev-clean-2/9-1-0000")
    (tmp_path / "evil.txt").write_text("evil")
    with tarfile.open(site / "dev-clean-2.tar.gz", "w:gz") as tar:
        tar.add(source / "LibriSpeech", "LibriSpeech")
        tar.add(tmp_path / "evil.txt", "LibriSpeech/dev-clean-2/../../../escaped.txt")
    md5 = hashlib.md5((site / "dev-clean-2.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setitem(librispeech.OFFICIAL_PARTS, "dev-clean-2", (31, md5))

    handler = functools.partial(ServerWithRanges, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_download_unpacks_and_is_idempotent(server: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (folder,) = download_librispeech(["dev-clean-2"], target, server)
    assert (folder / "9" / "1" / "9-1-0000.flac").is_file()
    assert not list(tmp_path.rglob("escaped.txt"))
    assert [path.name for path in target.iterdir()] == ["LibriSpeech"]
    assert [path.name for path in (target / "LibriSpeech").iterdir()] == ["dev-clean-2"]
    # Nothing is fetched again: this address does not answer.
    assert download_librispeech(["dev-clean-2"], target, "http://127.0.0.1:1") == [folder]
    (report,) = prepare_librispeech(target, tmp_path / "out")
    assert report.num_utterances == 1


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_a_broken_download_is_resumed(server: str, tmp_path: Path, share: float) -> None:
    whole = (tmp_path / "site" / "31" / "dev-clean-2.tar.gz").read_bytes()
    target = tmp_path / "target"
    target.mkdir()
    present = int(len(whole) * share)
    (target / "dev-clean-2.tar.gz.partial").write_bytes(whole[:present])
    ServerWithRanges.ranges.clear()
    (folder,) = download_librispeech(["dev-clean-2"], target, server)
    assert ServerWithRanges.ranges == [f"bytes={present}-"]
    assert (folder / "9" / "1" / "9-1-0000.flac").is_file()


def test_download_refuses_a_wrong_checksum(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(librispeech.OFFICIAL_PARTS, "dev-clean-2", (31, "0" * 32))
    with pytest.raises(InputError, match="MD5"):
        download_librispeech(["dev-clean-2"], tmp_path / "target", server)
    assert not (tmp_path / "target" / "LibriSpeech").exists()


def test_download_complaints(server: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean dev-clean"):
        download_librispeech(["dev-claen"], tmp_path / "target")
    with pytest.raises(InputError, match="404"):
        download_librispeech(["train-clean-5"], tmp_path / "target", server)
    with pytest.raises(InputError, match="internet connection"):
        download_librispeech(["train-clean-5"], tmp_path / "target", "http://127.0.0.1:1")
