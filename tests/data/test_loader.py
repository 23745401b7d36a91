import importlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse.cut import Cut

from asr.config import TokenizerConfig
from asr.data.audio.samples import AudioInfo
from asr.data.dataset import LoadWaveform, Utterances
from asr.data.loader import AHEAD, Loader
from asr.data.store.manifest import load_waveform
from asr.data.store.preparation import Utterance, make_cut
from asr.errors import InputError
from asr.text.normalise import get_normaliser
from asr.text.tokenizer import TextProcessor, train_tokenizer

RATE = 8000
NUM = 20
PLAN = [np.arange(start, start + 4) for start in range(0, NUM, 4)]


@pytest.fixture
def cuts(tmp_path: Path) -> list[Cut]:
    return [write_cut(tmp_path, f"u{index}", 4000 + 100 * index) for index in range(NUM)]


def write_cut(folder: Path, name: str, num_samples: int) -> Cut:
    path = folder / f"{name}.flac"
    wave_n = np.random.default_rng(num_samples).uniform(-0.5, 0.5, num_samples)
    soundfile.write(path, wave_n, RATE, subtype="PCM_16")
    return make_cut(Utterance(name, path, "text", "s"), AudioInfo(num_samples, RATE, 1))


def audio_path(cut: Cut) -> Path:
    return Path(cut.recording.sources[0].source)


def utterances(cuts: list[Cut], load: LoadWaveform = load_waveform) -> Utterances:
    tokenizer = train_tokenizer(["text"], TokenizerConfig(kind="char"))
    return Utterances(cuts, TextProcessor(get_normaliser("none"), tokenizer), RATE, load)


def test_a_thread_reads_ahead_and_ends_with_its_epoch(cuts: list[Cut]) -> None:
    read: list[str] = []

    def load(cut: Cut, sample_rate: int) -> np.ndarray:
        read.append(cut.id)
        return load_waveform(cut, sample_rate)

    batches = Loader(utterances(cuts, load)).epoch(0, PLAN)
    next(batches)
    ahead = 4 * (1 + AHEAD)
    deadline = time.monotonic() + 60
    while len(read) < ahead:  # nobody asks for them
        assert time.monotonic() < deadline
        time.sleep(0.001)
    batches.close()
    assert read == [f"u{index}" for index in range(ahead)]
    assert not any(thread.name.startswith("loader") for thread in threading.enumerate())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_read_costs_itself_and_is_named(cuts: list[Cut], num_workers: int) -> None:
    dataset = utterances(cuts)
    audio_path(cuts[5]).unlink()
    audio_path(cuts[9]).write_bytes(audio_path(cuts[9]).read_bytes()[:2000])
    for cut in cuts[12:16]:
        audio_path(cut).write_bytes(b"")
    loader = Loader(dataset, num_workers, max_unreadable=0.3)
    batches = list(loader.epoch(0, PLAN))
    lost = {5, 9, 12, 13, 14, 15}
    assert [list(batch.ids) for batch in batches] == [
        [f"u{index}" for index in indices if index not in lost] for indices in PLAN
    ]
    assert [[item.id for item in batch.left_out] for batch in batches] == [
        [f"u{index}" for index in indices if index in lost] for indices in PLAN
    ]
    assert {name: item.reason for name, item in loader.left_out.items()} == {
        "u5": "missing audio",
        "u9": "truncated audio",
        **{f"u{index}": "empty audio" for index in range(12, 16)},
    }
    empty = batches[3]
    assert len(empty) == 0
    assert empty.wave_bn.shape == empty.tokens_bu.shape == (0, 0)
    assert empty.audio_s == 0.0
    # those beside a lost one are what they are without it
    wave_n, _ = soundfile.read(audio_path(cuts[8]), dtype="float32")
    assert np.array_equal(batches[2].wave_bn[0, : len(wave_n)].numpy(), wave_n)


def test_too_many_unreadable_stop_with_advice_and_none_is_allowed_by_default(
    cuts: list[Cut],
) -> None:
    dataset = utterances(cuts)
    for cut in cuts[:3]:
        audio_path(cut).unlink()
    few = Loader(dataset, max_unreadable=0.15)
    assert sum(len(batch) for batch in few.epoch(0, PLAN)) == NUM - 3
    # the same three in another epoch are no new ones
    assert sum(len(batch) for batch in few.epoch(1, PLAN)) == NUM - 3
    with pytest.raises(InputError, match=r"3 of 20 .* data.max_unreadable = 0.1 .*u2"):
        list(Loader(dataset, max_unreadable=0.1).epoch(0, PLAN))
    with pytest.raises(InputError, match=r"cut u0.*no such file"):
        list(Loader(dataset).epoch(0, PLAN))


def test_broken_off_epochs_and_killed_workers_cost_nothing(cuts: list[Cut]) -> None:
    dataset = utterances(cuts)
    loader = Loader(dataset, num_workers=1, max_unreadable=0.0)
    assert next(loader.epoch(0, PLAN)).ids == ("u0", "u1", "u2", "u3")
    # what the worker had read ahead does not turn up in the next epoch; any iterable will do
    batches = loader.epoch(1, (batch for batch in [*PLAN[2:], np.array([], dtype=int), *PLAN]))
    found = [next(batches)]
    pid = loader._workers[0].process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    found += batches
    assert loader.num_deaths == 1
    assert loader.left_out == {}
    expected = list(Loader(dataset).epoch(1, [*PLAN[2:], [], *PLAN]))
    assert [batch.ids for batch in found] == [batch.ids for batch in expected]
    assert found[3].ids == ()
    for batch, same in zip(found, expected, strict=True):
        assert torch.equal(batch.wave_bn, same.wave_bn)


KILLER = """
import os
import signal

from asr.data.store.manifest import load_waveform


def load(cut, sample_rate):
    if cut.id == "u6":
        os.kill(os.getpid(), signal.SIGKILL)
    return load_waveform(cut, sample_rate)
"""


def test_an_utterance_that_kills_its_readers_is_left_out_alone(
    cuts: list[Cut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "killing_reader.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    load = importlib.import_module("killing_reader").load
    loader = Loader(utterances(cuts, load), num_workers=1, max_unreadable=0.05)
    batches = list(loader.epoch(0, PLAN))
    assert [len(batch) for batch in batches] == [4, 3, 4, 4, 4]
    assert [item.id for item in batches[1].left_out] == ["u6"]
    assert "died" in loader.left_out["u6"].reason
    assert loader.num_deaths == 2
