"""Arguments of the wrong kind, damaged models and a program's own settings: a line, or no difference."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import asr
from asr.api import Failure, SearchOptions, Transcriber
from asr.errors import InputError
from asr.search.factory import build_search
from tests.transcribe.conftest import RATE, Run

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = [NAN, INF, -INF, "30", None, True, [30.0], np.zeros(2), 1j, 10**400]


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert all(part in message for part in parts), message


@pytest.fixture
def damage(tmp_path: Path, streaming_exp: Path) -> Callable[..., Path]:
    """Makes a model folder without sums, its weights multiplied and its configuration changed."""

    def make(factor: float = 1.0, only: str = "", change: tuple[str, str] = ("", "")) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(streaming_exp / "model", folder)
        weights = load_file(folder / "model.safetensors")
        changed = {name: w * factor if only in name else w for name, w in weights.items()}
        save_file(changed, folder / "model.safetensors")
        text = (folder / "config.yaml").read_text()
        assert change[0] in text
        (folder / "config.yaml").write_text(text.replace(*change))
        return folder

    return make


@pytest.mark.parametrize("factor", [NAN, INF])
def test_weights_that_are_not_finite_are_named(damage: Callable[..., Path], factor: float) -> None:
    folder = damage(factor, "heads.ctc.linear.bias")
    refused(
        lambda: asr.load(folder, "cpu"), str(folder), "heads.ctc.linear.bias holds NaN or infinite"
    )


def test_weights_whose_sum_overflows_are_finite(damage: Callable[..., Path]) -> None:
    folder = damage()
    weights = load_file(folder / "model.safetensors")
    weights["norm.mean_f"].fill_(3e38)
    save_file(weights, folder / "model.safetensors")
    asr.load(folder, "cpu")


@pytest.mark.parametrize(
    "how", [{"factor": 1e30}, {"change": ("scale: 32768.0", "scale: 1.0e+30")}]
)
@pytest.mark.parametrize("search", [SearchOptions(), SearchOptions("beam", 2)])
def test_outputs_that_are_nan_name_the_model(
    damage: Callable[..., Path], how: dict[str, Any], search: SearchOptions, babble: np.ndarray
) -> None:
    folder = damage(**how)
    transcriber = asr.load(folder, "cpu", search)
    wave_n = babble[: 2 * RATE]
    refused(lambda: transcriber.transcribe(wave_n, RATE), str(folder), "outputs are NaN")
    refused(lambda: [*transcriber.transcribe_all([(wave_n, RATE)])], str(folder), "NaN")

    def stream() -> None:
        streaming = transcriber.stream()
        streaming.feed(wave_n)
        streaming.finish()

    refused(stream, str(folder), "outputs are NaN")


def test_the_commands_name_a_damaged_model_in_one_line(
    damage: Callable[..., Path], run: Run, good: Path
) -> None:
    folder = damage(change=("scale: 32768.0", "scale: 1.0e+30"))
    code, out, err = run(good, "--model", folder)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert str(folder) in err
    assert "Traceback" not in err


def test_wrong_shapes_stay_programming_errors(transcriber: Transcriber) -> None:
    model = transcriber.model
    search = build_search(SearchOptions(), model)
    nan_btv = torch.full((1, 3, model.tokenizer.vocab_size), NAN)
    for wrong_btv, lens_b in ((nan_btv[0], [3]), (nan_btv, [3, 3]), (nan_btv, [0, 0])):
        with pytest.raises(ValueError, match="expected") as caught:
            search(wrong_btv, torch.tensor(lens_b))
        assert not isinstance(caught.value, InputError)
    with pytest.raises(ValueError, match="every length") as caught:
        search(nan_btv.zero_(), torch.tensor([4]))
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("name", ["window_s", "overlap_s", "max_batch_s", "vad_silence_s"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_load_refuses_what_is_no_number(streaming_exp: Path, name: str, value: object) -> None:
    if value is None and name in ("window_s", "overlap_s"):
        return  # the model's own
    options: dict[str, Any] = {name: value}
    refused(lambda: asr.load(streaming_exp, "cpu", **options), f"{name} = ", "finite number")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"max_batch_s": -5}, "max_batch_s = -5: must be above 0"),
        ({"max_batch_s": 0}, "max_batch_s = 0: must be above 0"),
        ({"window_s": -1e308}, "window of"),
        ({"overlap_s": 1e308}, "window of"),
        ({"device": None}, "device = None: must be a text"),
        ({"device": 0}, "device = 0: must be a text"),
        ({"device": "warp"}, "device 'warp'"),
        ({"search": "beam"}, "search = 'beam': must be SearchOptions"),
        ({"search": 0}, "search = 0"),
        ({"precision": None}, "precision = None"),
        ({"precision": ["int8"]}, "precision = ['int8']"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"vad": "no"}, "vad = 'no': must be True or False"),
        ({"vad": 1}, "vad = 1"),
        ({"vad": None}, "vad = None"),
        ({"folder": 3}, "folder = 3: must be a path"),
        ({"folder": b"exp"}, "folder = b'exp'"),
        ({"folder": "x" * 5000}, "xxx"),
        ({"folder": "a\0b"}, "no such model folder"),
    ],
    ids=repr,
)
def test_load_refuses_other_arguments(
    streaming_exp: Path, options: dict[str, Any], part: str
) -> None:
    arguments: dict[str, Any] = {"folder": streaming_exp, "device": "cpu"} | options
    if len(str(arguments["folder"])) > 1000:
        with pytest.raises(InputError, match=part):
            asr.load(**arguments)
    else:
        refused(lambda: asr.load(**arguments), part)


def test_numbers_of_any_type_are_numbers(streaming_exp: Path, babble: np.ndarray) -> None:
    wave_n = babble[: 12 * RATE]
    expected = asr.load(streaming_exp, "cpu", window_s=8, overlap_s=2).transcribe(wave_n, RATE)
    transcriber = asr.load(
        streaming_exp,
        torch.device("cpu"),  # type: ignore[arg-type]
        SearchOptions("greedy", num_best=np.int64(1)),  # type: ignore[arg-type]
        window_s=np.float32(8),  # type: ignore[arg-type]
        overlap_s=Fraction(2),  # type: ignore[arg-type]
        max_batch_s=np.int64(120),  # type: ignore[arg-type]
        vad=np.bool_(False),  # type: ignore[arg-type]
    )
    found = transcriber.transcribe(wave_n, np.int32(RATE), np.int8(0))  # type: ignore[arg-type]
    assert found.segments == expected.segments
    assert transcriber.transcribe(wave_n, float(RATE)).text == expected.text  # type: ignore[arg-type]
    stream = transcriber.stream(
        np.int64(RATE),  # type: ignore[arg-type]
        np.int64(8),  # type: ignore[arg-type]
        np.uint8(3),  # type: ignore[arg-type]
        num_channels=np.int64(1),  # type: ignore[arg-type]
    )
    stream.feed(wave_n)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("beam", 1.5), "beam = 1.5: must be a whole number"),
        (("beam", 8.0), "beam = 8.0"),
        (("beam", True), "beam = True"),
        (("beam", "8"), "beam = '8'"),
        (("greedy", 8), "beam = 8: greedy search has no beam; choose --search beam"),
        (("beam", 0), "beam = 0: must be at least 1"),
        (("beam", 8, NAN), "num_best = nan"),
        ((None,), "search = None"),
        ((["beam"],), "search = ['beam']"),
        (("beam", 8, 1, 5), "lm = 5: must be a path"),
        (("beam", 8, 1, "lm.arpa", "1"), "lm_weight = '1'"),
        (("beam", 8, 1, "lm.arpa", NAN), "lm_weight = nan"),
        (("beam", 8, 1, "lm.arpa", 1, True), "word_bonus = True"),
        (("beam", 8, 1, None, None, None, None, "word"), "hotwords = 'word': must be phrases"),
        (("beam", 8, 1, None, None, None, None, None), "hotwords = None: must be phrases"),
        (("beam", 8, 1, None, None, None, None, (3,)), "a hotword = 3"),
        (("beam", 8, 1, None, None, None, None, ("word",), "4"), "hotword_bonus = '4'"),
        (("beam", 8, 1, None, None, None, None, (), NAN), "hotword_bonus = nan"),
        (("beam", 8, 1, None, None, None, None, (), 4), "4: means nothing without --hotwords"),
        (("beam", 8, 1, "lm.arpa", None, None, None, (), 4.0, 7), "neural = 7"),
    ],
    ids=repr,
)
def test_search_options_of_another_type(options: tuple[Any, ...], part: str) -> None:
    refused(lambda: SearchOptions(*options), part)


@pytest.mark.parametrize(
    ("audio", "rate", "channel", "part"),
    [
        (np.zeros(100, "f4"), RATE, "0", "channel = '0': must be a whole number"),
        (np.zeros(100, "f4"), RATE, 0.0, "channel = 0.0"),
        (np.zeros(100, "f4"), RATE, -1, "no channel 0"),
        (np.zeros(100, "f4"), RATE, False, "channel = False"),
        (np.zeros(100, "f4"), RATE, 1, "channel"),
        (np.zeros(100, "f4"), "16000", None, "sample_rate = '16000'"),
        (np.zeros(100, "f4"), NAN, None, "sample_rate = nan"),
        (np.zeros(100, "f4"), 10**400, None, "sample_rate = 1000"),
        (np.zeros(100, "f4"), True, None, "sample_rate = True"),
        (np.zeros(100, "f4"), 16000.5, None, "sample_rate = 16000.5: must be a whole number"),
        (np.zeros(100, "f4"), None, None, "needs sample_rate"),
        (np.zeros(100, "f4"), -RATE, None, "cannot be right"),
        (np.zeros(100, "c8"), RATE, None, "complex"),
        (np.zeros((2, 2, 2)), RATE, None, "3 axes"),
        (np.array(["a"] * 100), RATE, None, "samples of type"),
        (np.zeros(100, object), RATE, None, "samples of type object"),
        (None, RATE, None, "expected a path or a NumPy array"),
        (b"a.wav", None, None, "expected a path"),
        ("", None, None, ""),
        ("a\0b", None, None, ""),
        ("nowhere.wav", "x", None, "sample_rate"),
    ],
)
def test_transcribe_refuses(
    transcriber: Transcriber, audio: Any, rate: Any, channel: Any, part: str
) -> None:
    refused(lambda: transcriber.transcribe(audio, rate, channel), part)


@pytest.mark.parametrize("inputs", [None, 5, 1.5, object()])
def test_what_is_neither_one_input_nor_several(transcriber: Transcriber, inputs: Any) -> None:
    refused(lambda: transcriber.transcribe_all(inputs), "transcribe_all(", "expected paths")


def test_transcribe_all_of_wrong_inputs(transcriber: Transcriber) -> None:
    refused(lambda: transcriber.transcribe_all([], channel="0"), "channel = '0'")  # type: ignore[arg-type]
    wave_n = np.zeros(100, "f4")
    inputs: list[Any] = [None, 5, b"a.wav", (wave_n, True), (wave_n, NAN), (wave_n,), [wave_n, 1]]
    outcomes = [*transcriber.transcribe_all(inputs)]
    assert len(outcomes) == len(inputs)
    assert all(isinstance(one.result, Failure) for one in outcomes)
    for single in (b"a.wav", torch.zeros(100)):
        (outcome,) = transcriber.transcribe_all(single)  # type: ignore[arg-type]
        assert isinstance(outcome.result, Failure)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"chunk": 8.0}, "chunk = 8.0: must be a whole number"),
        ({"chunk": True}, "chunk = True"),
        ({"chunk": 0}, "chunks of 0 frames"),
        ({"chunk": 5}, "chunks of 5 frames"),
        ({"left_chunks": 3.0}, "left_chunks = 3.0"),
        ({"left_chunks": "3"}, "left_chunks = '3'"),
        ({"left_chunks": -1}, "-1 chunks before"),
        ({"num_channels": "1"}, "num_channels = '1'"),
        ({"num_channels": 0}, "num_channels = 0: must be at least 1"),
        ({"num_channels": 1.0}, "num_channels = 1.0"),
        ({"channel": "0"}, "channel = '0'"),
        ({"channel": -1}, "channel = -1"),
        ({"sample_rate": "16000"}, "sample_rate = '16000': must be a whole number per second"),
        ({"sample_rate": True}, "sample_rate = True"),
        ({"sample_rate": 10**400}, "sample_rate = 1000"),
        ({"sample_rate": 0}, "cannot be right"),
        ({"sample_rate": np.zeros(2)}, "sample_rate = array"),
    ],
    ids=repr,
)
def test_stream_refuses(transcriber: Transcriber, options: dict[str, Any], part: str) -> None:
    refused(lambda: transcriber.stream(**options), part)


@contextmanager
def raising() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


@contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = [
    pytest.param(raising, id="errors raise"),
    pytest.param(lambda: default_type(torch.float16), id="float16"),
    pytest.param(lambda: default_type(torch.float64), id="float64"),
    pytest.param(default_device, id="meta"),
]


def all_results(transcriber: Transcriber, babble: np.ndarray) -> list[object]:
    """Return what every entry gives, of sound with silence, faint noise and large integers in it."""
    rest = np.concatenate([np.zeros(RATE, "f4"), 1e-30 * babble[:RATE], babble[: 4 * RATE]])
    integers = (32767 * babble[:RATE].clip(-1, 1)).astype("i2")
    found: list[object] = [transcriber.transcribe(rest, RATE).segments]
    for outcome in transcriber.transcribe_all([(rest, 8000), (integers, RATE), (rest, 44100)]):
        assert not isinstance(outcome.result, Failure)
        found.append(outcome.result)
    stream = transcriber.stream(44100)
    found += [result for part in np.split(rest, 3) for result in stream.feed(part)]
    return [*found, *stream.finish()]


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("search", [SearchOptions(), SearchOptions("beam", 4)])
def test_a_programs_settings_change_nothing(
    streaming_exp: Path, babble: np.ndarray, settings: Callable[[], Any], search: SearchOptions
) -> None:
    before = asr.load(streaming_exp, "cpu", search)
    expected = all_results(before, babble)
    with settings():
        then = asr.load(streaming_exp, "cpu", search)
        assert all_results(before, babble) == expected
        assert all_results(then, babble) == expected
    assert all_results(then, babble) == expected
    for name, value in before.model.net.state_dict().items():
        assert value.dtype == then.model.net.state_dict()[name].dtype
    for one, other in zip(before.model.net.buffers(), then.model.net.buffers(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("settings", SETTINGS)
def test_int8_under_a_programs_settings(
    streaming_exp: Path, babble: np.ndarray, settings: Callable[[], Any]
) -> None:
    expected = asr.load(streaming_exp, "cpu", precision="int8").transcribe(babble, RATE)
    with settings():
        found = asr.load(streaming_exp, "cpu", precision="int8").transcribe(babble, RATE)
    assert found == expected


def test_a_programs_settings_are_its_own_between_results(
    transcriber: Transcriber, babble: np.ndarray
) -> None:
    def inputs() -> Iterator[tuple[np.ndarray, int]]:
        for _ in range(3):
            assert np.geterr()["over"] == "raise"
            assert torch.zeros(1).dtype == torch.float64
            yield babble[:RATE], RATE

    with np.errstate(all="raise"), default_type(torch.float64):
        for _ in transcriber.transcribe_all(inputs()):
            assert np.geterr()["under"] == "raise"
            assert torch.zeros(1).dtype == torch.float64
            assert torch.tensor([1.0]).dtype == torch.float64
