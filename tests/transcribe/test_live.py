"""Live text: the tokens of the whole with the same chunks, however samples are cut; as soon as promised;
in memory that does not grow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

import asr
from asr.api import SearchOptions, StreamResult, TextStream, Transcriber
from asr.errors import InputError
from asr.search.prefix_beam import prefix_beam

from .conftest import STREAMING, offline_letters, offline_log_probs, untrained

RATE = 16000
ATTENTION = [
    [f"attention.weighting={weighting}", f"attention.position={position}"]
    for weighting in ("softmax", "sigmoid")
    for position in ("alibi", "rope", "relative")
]


def letters(results: Iterable[StreamResult]) -> str:
    return "".join("".join(one.segment.text.split()) for one in results if one.is_final)


def fed(stream: TextStream, parts: Iterable[np.ndarray]) -> list[StreamResult]:
    return [*(one for part in parts for one in stream.feed(part)), *stream.finish()]


def random_parts(wave_n: np.ndarray, seed: int) -> list[np.ndarray]:
    """Some of no sample, some longer than a chunk."""
    sizes = (10 ** np.random.default_rng(seed).uniform(-0.5, 4.5, 1000)).astype(int)
    return np.split(wave_n, np.minimum(np.cumsum(sizes), len(wave_n)))


@pytest.mark.parametrize("options", ATTENTION, ids=" ".join)
def test_any_cutting_gives_the_tokens_of_the_whole(
    tmp_path: Path, babble: np.ndarray, options: list[str]
) -> None:
    model = untrained(tmp_path, False, babble, [*STREAMING, *options])
    wave_n = babble[: 6 * RATE + 77]
    expected = offline_letters(model, wave_n, (8, 3))
    assert len(expected) > 10
    assert expected != offline_letters(model, wave_n, (4, 1)), "chunks make a difference"
    transcriber = Transcriber(model)
    whole = fed(transcriber.stream(), [wave_n])
    assert letters(whole) == expected
    finals = [one for one in whole if one.is_final]
    results = fed(transcriber.stream(), random_parts(wave_n, 0))
    assert [one for one in results if one.is_final] == finals
    small = fed(transcriber.stream(chunk=4, left_chunks=1), random_parts(wave_n, 3))
    assert letters(small) == offline_letters(model, wave_n, (4, 1))


def test_results_come_as_soon_as_promised(transcriber: Transcriber, babble: np.ndarray) -> None:
    stream = transcriber.stream(chunk=4)
    # 4 frames of 40 ms, and what a window of 25 ms reaches beyond its hop of 10 ms
    assert (stream.chunk_s, stream.latency_s) == pytest.approx((0.16, 0.175))
    begin, heard = RATE, False
    stream.feed(babble[:begin])
    for end in range(begin + 800, 3 * RATE, 800):
        heard = heard or bool(stream.feed(babble[end - 800 : end]))
    assert heard
    stream = transcriber.stream(chunk=4)
    due = round(0.175 * RATE) - 1
    stream.feed(babble[:due])
    assert stream._num_frames == 0
    stream.feed(babble[due : due + 1])
    assert stream._num_frames == 4


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_resampling_is_counted_in_the_latency(transcriber: Transcriber, rate: int) -> None:
    stream = transcriber.stream(rate, chunk=4)
    assert 0.175 < stream.latency_s < 0.3
    for number in range(1, 10):  # after a further chunk of sound a further chunk of frames
        due_s = stream.latency_s + (number - 1) * stream.chunk_s
        while stream.duration_s < due_s:
            stream.feed(np.zeros(rate // 200, np.float32))
        assert stream._num_frames >= 4 * number


def test_partial_results_grow_into_final_ones(transcriber: Transcriber, babble: np.ndarray) -> None:
    """Each partial result begins where the last final one ended, and is news."""
    results = fed(transcriber.stream(chunk=4), np.split(babble[: 20 * RATE], 100))
    finals = [one.segment for one in results if one.is_final]
    assert len(finals) > 1
    end_s, shown, num_partial = 0.0, "", 0
    for one in results:
        assert one.segment.text == " ".join(word.text for word in one.segment.words) != ""
        assert one.segment.start_s >= end_s
        if one.is_final:
            end_s, shown = one.segment.end_s, ""
        else:
            assert one.segment.text != shown
            shown, num_partial = one.segment.text, num_partial + 1
    assert num_partial > len(finals)
    assert end_s <= 20.0


def test_a_partial_result_that_no_final_one_replaces_is_taken_back(
    tmp_path: Path, streaming_exp: Path, babble: np.ndarray
) -> None:
    """No word is worth its penalty to the final search: at pauses the listener's line is empty."""
    lm = tmp_path / "lm.arpa"
    lm.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1\t<unk>\n-99\t<s>\n-1\t</s>\n\n\\end\\\n")
    beam = SearchOptions(search="beam", beam=4, lm=lm, lm_weight=1.0, word_bonus=-1000.0)
    stream = asr.load(streaming_exp, "cpu", beam).stream(chunk=4)
    line, num_taken_back = "", 0
    for part_n in np.split(babble[: 20 * RATE], 400):
        results = stream.feed(part_n)
        assert len(results) <= 1
        for one in results:
            assert not one.is_final
            assert one.segment.text != line
            line = one.segment.text
            num_taken_back += not line
        held = stream._partial_reader.read(stream._cutter.held)
        assert line == ("" if held is None else held.text)
    assert num_taken_back > 1
    assert stream.finish() == []


def test_other_rates_and_channels(transcriber: Transcriber, babble: np.ndarray) -> None:
    """Oracle: soxr over all samples at once, then the model over all of them."""
    speech_n = babble[: 6 * RATE : 2]
    expected = offline_letters(
        transcriber.model, soxr.resample(speech_n, 8000, RATE).astype("f4"), (8, 3)
    )
    assert len(expected) > 10
    stream = transcriber.stream(8000)
    assert letters(fed(stream, random_parts(speech_n, 1))) == expected
    assert stream.duration_s == 6.0
    both_cn = np.stack([speech_n[::-1], speech_n])
    stream = transcriber.stream(8000, channel=1)
    assert letters(fed(stream, np.split(both_cn, 10, axis=1))) == expected
    int16 = np.round(babble[: 3 * RATE] * 32767).astype("<i2")
    assert letters(fed(transcriber.stream(), [int16])) == letters(
        fed(transcriber.stream(), [int16.astype("f4") / 32768])
    )


def test_final_results_by_beam_search(streaming_exp: Path, babble: np.ndarray) -> None:
    beam = asr.load(streaming_exp, "cpu", SearchOptions(search="beam", beam=4, num_best=2))
    wave_n = babble[: 2 * RATE]
    log_probs_btv = offline_log_probs(beam.model, wave_n, (8, 3))
    lens_b = torch.tensor([log_probs_btv.shape[1]])
    best, second = prefix_beam(log_probs_btv, lens_b, beam=4, num_best=2)[0]
    finals = [one for one in fed(beam.stream(), np.split(wave_n, 8)) if one.is_final]
    assert len(finals) == 1
    spelled = [" ".join(beam.model.tokenizer.decode(one.tokens).split()) for one in (best, second)]
    assert [one.text for one in finals[0].segment.alternatives] == spelled


def test_bad_samples_are_a_gap_and_silence(transcriber: Transcriber, babble: np.ndarray) -> None:
    damaged = babble[: 4 * RATE].copy()
    damaged[RATE : 2 * RATE] = np.nan
    silenced = np.nan_to_num(damaged)
    stream = transcriber.stream()
    results = fed(stream, random_parts(damaged, 2))
    assert letters(results) == offline_letters(transcriber.model, silenced, (8, 3))
    assert (stream.gaps[0].start_s, stream.gaps[-1].end_s) == (1.0, 2.0)
    nothing = transcriber.stream()
    nothing.feed(np.full(100, np.inf, np.float32))
    with pytest.raises(InputError, match="only"):
        nothing.finish()


def test_nothing_and_next_to_nothing(transcriber: Transcriber) -> None:
    assert transcriber.stream().finish() == []
    for count in (1, 399):
        assert fed(transcriber.stream(), [np.zeros(count, np.float32)]) == []


@pytest.mark.parametrize("sound", ["babble", "silence"])
def test_an_endless_stream_needs_no_more_memory(
    transcriber: Transcriber, babble: np.ndarray, sound: str
) -> None:
    """Everything that a stream holds, after each half minute: tensors, and what Python allocates."""
    stream = transcriber.stream()
    block_n = babble[: 30 * RATE] if sound == "babble" else np.zeros(30 * RATE, np.float32)
    sizes, allocated = [], []
    tracemalloc.start()
    for _ in range(3):
        for part_n in np.split(block_n, 30):
            stream.feed(part_n)
        held = stream._cutter.held
        sizes.append(stream._frames._memory.sizes())
        assert len(stream._frames._wave_n) < 8 * 640 + 400
        assert len(held.frames_tx) * 0.04 <= 30
        allocated.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[0] == sizes[1] == sizes[2]
    assert {shape[2] for shape in sizes[0]["keys"]} == {24}, "of three chunks of eight frames"
    assert allocated[2] - allocated[1] < 50_000


def test_a_past_without_bounds_in_training_is_bounded(tmp_path: Path, babble: np.ndarray) -> None:
    options = [*STREAMING, "encoder.left_chunks=[-1,2]", "data.max_duration_s=3.1"]
    stream = Transcriber(untrained(tmp_path, False, babble, options)).stream(chunk=4)
    fed(stream, np.split(babble[: 10 * RATE], 20))
    # 3.1 s are 20 chunks of 160 ms
    assert {shape[2] for shape in stream._frames._memory.sizes()["keys"]} == {80}


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        (["encoder.chunk_sizes=[]"], {}, r"train with encoder\.causal=true encoder\.chunk_sizes="),
        (["encoder.chunk_sizes=[0]"], {}, "this one saw whole utterances"),
        ([], {"chunk": 5}, "chunks of 5 frames: this model was trained with 4, 8"),
        ([], {"left_chunks": 2}, "2 chunks before: this model was trained with 1, 3"),
        (["encoder.left_chunks=[-1]"], {"left_chunks": -1}, "any number from 0"),
        ([], {"sample_rate": 7}, "7 samples per second, which cannot be right"),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    tmp_path: Path, babble: np.ndarray, options: list[str], call: dict[str, int], message: str
) -> None:
    model = untrained(tmp_path, False, babble, [*STREAMING, *options])
    with pytest.raises(InputError, match=message):
        Transcriber(model).stream(**call)


def test_samples_that_are_none_are_refused(transcriber: Transcriber) -> None:
    for samples, message in (
        (np.zeros(5, np.uint8), "floats or signed integers"),
        (np.zeros((1, 2, 3)), "3 axes"),
    ):
        with pytest.raises(InputError, match=message):
            transcriber.stream().feed(samples)
        with pytest.raises(InputError, match=message):
            transcriber.transcribe(samples, RATE)
