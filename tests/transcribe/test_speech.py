"""Voice activity: silero-vad's own probabilities; every sample is transcribed or in a gap; silence of
any length costs no memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import asr
from asr.api import Transcriber
from asr.cli import main
from asr.data.audio.gaps import Gap
from asr.data.store.manifest import load_waveform, read_cuts
from asr.errors import InputError
from asr.model.folder import Model
from asr.transcribe.speech import NO_SPEECH, SpeechFinder, SpeechPart, Vad
from asr.transcribe.voice_activity import ActivityStream, load_voice_activity
from asr.transcribe.windows import Grid

from .conftest import needs_silero

RATE = 16000
GRID = Grid(640, 250, 50)


@pytest.fixture(scope="module")
def speech(tiny_corpus: Path) -> list[np.ndarray]:
    """Synthetic utterances."""
    return [load_waveform(cut, RATE) for cut in read_cuts(tiny_corpus / "test.cuts.jsonl.gz")]


def with_pauses(speech: list[np.ndarray], pause_s: float) -> np.ndarray:
    pause_n = np.random.default_rng(0).normal(0, 1e-4, int(pause_s * RATE)).astype("f4")
    return np.concatenate([part for wave_n in speech for part in (wave_n, pause_n)])


@needs_silero
def test_probabilities_are_those_of_the_networks_own_program(speech: list[np.ndarray]) -> None:
    """Oracle: TorchScript from the same wheel, one frame at a time."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    script = torch.jit.load(Path(str(spec.origin)).parent / "data" / "silero_vad.jit")
    wave_n = with_pauses(speech[:2], 0.7)
    wave_n = wave_n[: len(wave_n) // 512 * 512]
    with torch.inference_mode():
        expected = [script(x_n[None], RATE).item() for x_n in torch.from_numpy(wave_n).split(512)]
    assert min(expected) < 0.1
    assert max(expected) > 0.9
    stream = ActivityStream(load_voice_activity(), RATE)
    parts = np.split(wave_n, [100, 101, 5000, 40_000])
    found = np.concatenate([*(stream.push(part_n) for part_n in parts), stream.finish()])
    np.testing.assert_allclose(found, expected, atol=1e-4)


@needs_silero
def test_other_rates_are_resampled(speech: list[np.ndarray]) -> None:
    stream = ActivityStream(load_voice_activity(), 8000)
    found = np.concatenate([stream.push(speech[0][::2]), stream.finish()])
    expected = ActivityStream(load_voice_activity(), RATE).push(speech[0])
    assert len(found) == -(-len(speech[0]) // 512)
    assert np.abs(found[: len(expected)] - expected).mean() < 0.1


class Scripted:
    """An activity whose probabilities are the samples themselves."""

    def __call__(self, frames_tn: Tensor, state: object) -> tuple[Tensor, object]:
        return frames_tn[:, 64:].mean(1), state


def find(
    samples_n: np.ndarray, block: int, silence_s: float = 2.0
) -> tuple[list[SpeechPart], list[Gap]]:
    gaps: list[Gap] = []
    vad = Vad(Scripted(), silence_s)  # type: ignore[arg-type]
    finder = SpeechFinder(vad, GRID, RATE, gaps)
    parts = []
    for start in range(0, len(samples_n), block):
        parts += finder.push(samples_n[start : start + block])
        assert finder._held.end - finder._held.start < 2.3 * RATE + 2 * block, "one silence at most"
    return parts + finder.finish(), gaps


def stretches(parts: list[SpeechPart]) -> list[tuple[int, np.ndarray]]:
    """(first sample, samples) of each."""
    found: list[tuple[int, np.ndarray]] = []
    ended = True
    for part in parts:
        if ended:
            found.append((part.first_frame * GRID.frame_samples, np.zeros(0, np.float32)))
        start, before_n = found[-1]
        assert part.first_frame * GRID.frame_samples == start
        found[-1] = (start, np.concatenate([before_n, part.samples_n]))
        ended = part.ends
    assert ended
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 150)), max_size=20),
    st.integers(0, 511),
    st.sampled_from([500, 16_000, 10_000_000]),
    st.sampled_from([0.2, 0.25, 0.7, 2.0]),
)
def test_every_sample_is_in_a_stretch_or_in_a_gap(
    runs: list[tuple[bool, int]], more: int, block: int, silence_s: float
) -> None:
    speech_t = [speaks for speaks, length in runs for _ in range(length)]
    samples_n = np.repeat(np.array(speech_t, np.float32), 512)
    samples_n = np.concatenate([samples_n, np.zeros(more, np.float32)])
    parts, gaps = find(samples_n, block, silence_s)
    covered = np.zeros(len(samples_n), int)
    for start, stretch_n in stretches(parts):
        np.testing.assert_array_equal(stretch_n, samples_n[start : start + len(stretch_n)])
        covered[start : start + len(stretch_n)] += 1
    for gap in gaps:
        assert gap.end_s is not None
        first, end = round(gap.start_s * RATE), round(gap.end_s * RATE)
        covered[first:end] += 1
        assert not samples_n[first:end].any(), "speech in a gap"
    assert (covered == 1).all()
    whole, _ = find(samples_n, 10_000_000, silence_s)
    again = [(start, len(one_n)) for start, one_n in stretches(whole)]
    assert [(start, len(one_n)) for start, one_n in stretches(parts)] == again


@pytest.mark.parametrize("block", [1, 160, 5000])
def test_samples_of_a_long_silence_are_copied_a_few_times_however_they_come(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held of a silence grows until it ends the stretch, here for a number of blocks."""
    samples_n = np.zeros(min(20 * RATE, 3000 * block), np.float32)
    samples_n[: RATE // 10] = 1.0
    finder = SpeechFinder(Vad(Scripted(), 100.0), GRID, RATE, [])  # type: ignore[arg-type]
    copied, join = [], np.concatenate

    def counted(parts: Sequence[np.ndarray]) -> np.ndarray:
        joined_n = join(parts)
        copied.append(len(joined_n))
        return joined_n

    monkeypatch.setattr(np, "concatenate", counted)
    for start in range(0, len(samples_n), block):
        finder.push(samples_n[start : start + block])
    assert sum(copied) < 4 * len(samples_n)


def test_where_stretches_end() -> None:
    """Half a window is 5 s. In s: 1 of silence, 2 of speech, 1, 2, 2.5, 6, 0.6, 1."""
    lengths_s = [1, 2, 1, 2, 2.5, 6, 0.6, 1]
    samples_n = np.concatenate(
        [np.full(int(s * RATE), i % 2, np.float32) for i, s in enumerate(lengths_s)]
    )
    parts, gaps = find(samples_n, 4000)
    times_s = [(start / RATE, (start + len(one)) / RATE) for start, one in stretches(parts)]
    # a second of silence separates nothing so early; 2.5 s do, and 0.6 s after six of speech
    expected = [(0.75, 6.25), (8.25, 14.75), (14.85, 16.1)]
    assert np.array(times_s) == pytest.approx(np.array(expected), abs=0.08)
    assert [gap.reason for gap in gaps] == [NO_SPEECH] * 3


def test_where_stretches_end_that_any_quarter_of_a_second_ends() -> None:
    """In s: 1 of silence, 2 of speech, 0.2, 1, 0.3, 1.5, 5, 1."""
    lengths_s = [1, 2, 0.2, 1, 0.3, 1.5, 5, 1]
    samples_n = np.concatenate(
        [np.full(int(s * RATE), i % 2, np.float32) for i, s in enumerate(lengths_s)]
    )
    parts, _ = find(samples_n, 4000, silence_s=0.25)
    times_s = [(start / RATE, (start + len(one)) / RATE) for start, one in stretches(parts)]
    # half of the shortest silence is kept on both sides
    expected = [(0.875, 4.325), (4.375, 6.125), (10.875, 12.0)]
    assert np.array(times_s) == pytest.approx(np.array(expected), abs=0.08)


@pytest.mark.parametrize("silence_s", [0.1, 0.0, -1.0, float("nan")])
def test_silences_that_words_have_are_refused(silence_s: float) -> None:
    with pytest.raises(InputError, match=r"give 0\.2 s or more"):
        Vad(Scripted(), silence_s)  # type: ignore[arg-type]


@needs_silero
def test_each_stretch_is_transcribed_as_if_it_were_alone(
    speech: list[np.ndarray], exp: Path
) -> None:
    """Oracle: the stretches cut out by hand, of a model that attends to all that it is given."""
    wave_n = with_pauses(speech[:4], 0.6)
    found = asr.load(exp, "cpu", vad=True, vad_silence_s=0.25).transcribe(wave_n, RATE)
    edges = [round(time_s * RATE) for gap in found.gaps for time_s in (gap.start_s, gap.end_s or 0)]
    assert len(edges) in (2 * 4, 2 * 4 + 2)  # maybe before the first, after the others
    bounds = edges if edges[0] == 0 else [0, 0, *edges]
    alone = asr.load(exp, "cpu")
    texts = [
        alone.transcribe(wave_n[first:end], RATE).text
        for first, end in zip(bounds[1:-1:2], bounds[2::2], strict=True)
    ]
    assert len(texts) == 4
    assert found.text == " ".join(text for text in texts if text)
    assert found.text != alone.transcribe(wave_n, RATE).text


@needs_silero
def test_words_and_gaps_of_speech_with_silence_in_it(
    tmp_path: Path, babble: np.ndarray, speech: list[np.ndarray], local_model: Model
) -> None:
    """What is transcribed is transcribed as without: only silence, which gives no words, is left out."""
    with torch.no_grad():
        local_model.net.heads["ctc"].linear.bias[0] += 3.0
    wave_n = with_pauses(speech[:4], 4.0)
    plain = Transcriber(local_model, window_s=8.0, overlap_s=1.0).transcribe(wave_n, RATE)
    found = Transcriber(local_model, window_s=8.0, overlap_s=1.0, vad=True).transcribe(wave_n, RATE)
    assert found.duration_s == plain.duration_s
    silent_s = sum((gap.end_s or 0.0) - gap.start_s for gap in found.gaps)
    assert 4 * 3.0 < silent_s < 4 * 4.0 + 1.0
    assert {gap.reason for gap in found.gaps} == {NO_SPEECH}
    for word in found.words:
        assert not any(
            gap.start_s < (word.start_s + word.end_s) / 2 < (gap.end_s or 0.0) for gap in found.gaps
        )
    assert found.words


@needs_silero
def test_gaps_hold_nothing_that_silero_calls_speech() -> None:
    """Oracle: the wheel's own program, which is imported in a process of its own."""
    root = os.environ.get("SIGMOID_ASR_DATA")
    folder = Path(root or "") / "librispeech-mini/LibriSpeech/dev-clean-mini"
    if root is None or not folder.is_dir():
        pytest.skip("no LibriSpeech: SIGMOID_ASR_DATA is not set")
    files = sorted(folder.rglob("*.flac"))[:4]
    wave_n = with_pauses([soundfile.read(path, dtype="float32")[0] for path in files], 3.0)
    code = """
import sys, numpy, torch, silero_vad
wave = torch.from_numpy(numpy.frombuffer(sys.stdin.buffer.read(), "<f4").copy())
for span in silero_vad.get_speech_timestamps(wave, silero_vad.load_silero_vad()):
    print(span["start"], span["end"])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], input=wave_n.tobytes(), capture_output=True, check=True
    )
    spoken_n = np.zeros(len(wave_n), bool)
    for line in run.stdout.decode().splitlines():
        first, end = map(int, line.split())
        spoken_n[first:end] = True
    gaps: list[Gap] = []
    SpeechFinder(Vad(load_voice_activity()), GRID, RATE, gaps).push(wave_n)
    in_gaps_n = np.zeros(len(wave_n), bool)
    for gap in gaps:
        in_gaps_n[round(gap.start_s * RATE) : round((gap.end_s or 0.0) * RATE)] = True
    assert spoken_n.mean() > 0.5
    assert in_gaps_n.sum() > 3 * 2.0 * RATE
    assert not (spoken_n & in_gaps_n).any()


@needs_silero
def test_the_command_says_what_was_left_out(
    tmp_path: Path, exp: Path, speech: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", with_pauses(speech[:2], 3.0), RATE)
    soundfile.write(tmp_path / "b.wav", np.zeros(5 * RATE), RATE)
    threads = torch.get_num_threads()
    words = ["transcribe", tmp_path / "a.wav", tmp_path / "b.wav", "--model", exp, "--vad"]
    assert main([str(word) for word in [*words, "--device", "cpu", "--threads", 1]]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    lines = err.splitlines()
    assert "a.wav: no speech in " in lines[0]
    assert "b.wav: no speech in 5.0 of 5.0 s, left out" in lines[1]
    assert "b.wav: no words found in 5.0 s" in lines[2]
    assert len(lines) == 3
    assert "silero_vad" not in sys.modules
    torch.set_num_threads(threads)


@needs_silero
@pytest.mark.parametrize(
    "name",
    ["stft.forward_basis_buffer", "encoder.3.reparam_conv.weight", "decoder.decoder.2.weight"],
)
def test_a_network_of_other_shapes_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one's parameters, one of them without its last channels."""
    spec = importlib.util.find_spec("silero_vad")
    assert spec is not None
    own = torch.jit.load(Path(str(spec.origin)).parent / "data" / "silero_vad.jit").state_dict()
    root = nn.Module()
    for path, value in own.items():
        *parts, last = path.split(".")
        module = root
        for part in parts:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_buffer(last, value[:, :-1] if path == f"_model.{name}" else value)
    (tmp_path / "silero_vad" / "data").mkdir(parents=True)
    (tmp_path / "silero_vad" / "__init__.py").touch()
    torch.jit.script(root).save(tmp_path / "silero_vad" / "data" / "silero_vad.jit")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="not silero-vad's network as of release 6: "):
        load_voice_activity()


@needs_silero
def test_the_command_refuses_silences_that_words_have(
    exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    words = ["transcribe", tmp_path / "a.wav", "--model", exp, "--vad", "--vad-silence-s", 0.1]
    assert main([str(word) for word in [*words, "--device", "cpu", "--threads", 1]]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "a silence of 0.1 s to end speech" in err


def test_without_silero_vad(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sigmoid-asr\[vad\]'"):
        asr.load(exp, "cpu", vad=True)
