"""Shards behind a real HTTP server that fails as servers do."""

from __future__ import annotations

import http.server
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from asr.config import TokenizerConfig
from asr.data.audio.samples import AudioError
from asr.data.dataset import Utterances
from asr.data.loader import Loader
from asr.data.store import members
from asr.data.store.manifest import load_waveform, read_cuts
from asr.data.store.shards import write_shards
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, train_tokenizer

pytest.importorskip("aiohttp", reason="fsspec reads http:// with aiohttp, which is not installed")

RATE = 16000
Fault = Callable[[http.server.BaseHTTPRequestHandler, bytes], None]


def unavailable(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    request.send_error(503)


def too_many(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    request.send_error(429)


def reset(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    request.connection.setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
    )
    request.connection.close()


def silent(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    time.sleep(1.0)


def short(request: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    answer(request, content, content[: len(content) // 2])


def whole(request: http.server.BaseHTTPRequestHandler, content: bytes) -> None:
    """As servers do that ignore Range."""
    answer(request, content, content, 200)


def missing(request: http.server.BaseHTTPRequestHandler, _: bytes) -> None:
    request.send_error(404)


def answer(
    request: http.server.BaseHTTPRequestHandler, told: bytes, content: bytes, status: int = 206
) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(told)))
    request.end_headers()
    request.wfile.write(content)


class Store:
    """Serves a folder by ranges, after the faults that a test lists for each range."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        store = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers["Range"]
                number = store.requests[wanted]
                store.requests[wanted] += 1
                content = (store.folder / Path(self.path).name).read_bytes()
                first, last = map(int, re.findall(r"\d+", wanted))
                fault = store.faults[number] if number < len(store.faults) else None
                if fault is whole:
                    whole(self, content)
                elif fault is not None:
                    fault(self, content[first : last + 1])
                else:
                    answer(self, content[first : last + 1], content[first : last + 1])

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(members, "_WAITS_S", (0.01, 0.02, 0.03))
    monkeypatch.setattr(members, "_TIMEOUT_S", 0.2)
    served = Store(tmp_path / "shards")
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def cuts(store: Store, tiny_corpus: Path) -> tuple[CutSet, CutSet]:
    """Of files, and the same of shards."""
    manifest = tiny_corpus / "test.cuts.jsonl.gz"
    report = write_shards(manifest, store.folder, url=store.url, num_jobs=1)
    return read_cuts(manifest), read_cuts(report.cuts_path)


@pytest.mark.parametrize("fault", [unavailable, too_many, reset, silent, short])
def test_a_fault_that_passes_costs_nothing(
    store: Store, cuts: tuple[CutSet, CutSet], fault: Fault
) -> None:
    first, same = next(iter(cuts[0])), next(iter(cuts[1]))
    store.faults = [fault, fault]
    assert np.array_equal(load_waveform(same, RATE), load_waveform(first, RATE))
    assert list(store.requests.values()) == [3]


@pytest.mark.parametrize("fault", [unavailable, reset, silent, short])
def test_a_fault_that_stays_costs_the_utterance(
    store: Store, cuts: tuple[CutSet, CutSet], fault: Fault
) -> None:
    store.faults = [fault] * 99
    with pytest.raises(AudioError, match=r"cut .*: shard http://127.*\(4 tries\)") as caught:
        load_waveform(next(iter(cuts[1])), RATE)
    assert "\n" not in str(caught.value)
    (num_requests,) = store.requests.values()
    assert 4 <= num_requests <= 8, "aiohttp asks once more by itself after a reset"


def test_a_missing_shard_is_asked_for_once(store: Store, cuts: tuple[CutSet, CutSet]) -> None:
    store.faults = [missing] * 99
    with pytest.raises(AudioError, match="no such file"):
        load_waveform(next(iter(cuts[1])), RATE)
    assert list(store.requests.values()) == [1]


def test_other_bytes_than_asked_for_are_no_audio(store: Store, cuts: tuple[CutSet, CutSet]) -> None:
    store.faults = [whole] * 99
    with pytest.raises(AudioError, match="does not know ranges"):
        load_waveform(next(iter(cuts[1])), RATE)


def test_training_goes_on_without_what_cannot_be_fetched(
    store: Store, cuts: tuple[CutSet, CutSet]
) -> None:
    """Each range fails once, which costs nothing; then for ever, which costs the utterances."""
    tokenizer = train_tokenizer(["text"], TokenizerConfig(kind="char"))
    dataset = Utterances(cuts[1], TextProcessor(get_normaliser("none"), tokenizer), RATE)
    store.faults = [unavailable]
    loader = Loader(dataset, max_unreadable=0.9)
    plan = [[index] for index in range(len(dataset))]
    assert [len(batch) for batch in loader.epoch(0, plan)] == [1] * len(dataset)
    assert loader.left_out == {}
    store.requests.clear()
    store.faults = [reset] * 99
    small = Loader(dataset, max_unreadable=0.9)
    assert [len(batch) for batch in small.epoch(0, plan[:2])] == [0, 0]
    assert [item.reason for item in small.left_out.values()] == ["unreadable shard"] * 2
