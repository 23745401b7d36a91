"""From audio to transcripts: windows and batches change nothing, and nothing is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import asr
from asr.api import Failure, SearchOptions, Transcriber, Transcript
from asr.errors import InputError
from asr.model.folder import Model
from asr.search.greedy import greedy
from asr.search.prefix_beam import prefix_beam

RATE = 16000


def result(outcome: object) -> Transcript:
    found = outcome.result  # type: ignore[attr-defined]
    assert isinstance(found, Transcript)
    return found


@pytest.mark.parametrize(("window_s", "overlap_s"), [(5.0, 1.0), (7.3, 0.6), (2.0, 1.0)])
def test_windows_give_what_the_whole_gives(
    local_model: Model, babble: np.ndarray, window_s: float, overlap_s: float
) -> None:
    """Oracle: the model over all samples at once and one greedy search."""
    with torch.inference_mode():
        log_probs = local_model.net(torch.from_numpy(babble)[None], torch.tensor([len(babble)]))
    best = greedy(*log_probs)[0]
    words = local_model.tokenizer.decode(best.tokens).split()
    assert len(words) > 20
    found = Transcriber(local_model, window_s=window_s, overlap_s=overlap_s, max_batch_s=11.0)
    transcript = found.transcribe(babble, RATE)
    assert transcript.text.replace(" ", "") == "".join(words)
    assert transcript.duration_s == 60.0
    whole = Transcriber(local_model, window_s=100.0).transcribe(babble, RATE)
    assert [(w.text, w.start_s, w.end_s) for w in whole.words] == [
        (w.text, w.start_s, w.end_s) for w in transcript.words
    ]
    # products of other shapes round otherwise on some processors
    assert [word.confidence for word in whole.words] == pytest.approx(
        [word.confidence for word in transcript.words], abs=1e-5
    )


def test_a_file_gives_the_same_alone_and_in_company(
    exp: Path, babble: np.ndarray, tmp_path: Path
) -> None:
    lengths_s = [0.3, 12.0, 1.7, 30.0, 0.02, 5.0]
    paths = [tmp_path / f"{number}.wav" for number in range(len(lengths_s))]
    for path, length_s in zip(paths, lengths_s, strict=True):
        soundfile.write(path, babble[: int(length_s * RATE)], RATE, subtype="FLOAT")
    transcriber = asr.load(exp, "cpu", window_s=8.0, overlap_s=2.0, max_batch_s=20.0)
    together = [result(outcome) for outcome in transcriber.transcribe_all(paths)]
    assert [one.name for one in together] == [str(path) for path in paths]
    for path, one in zip(paths, together, strict=True):
        alone = transcriber.transcribe(path)
        assert one.text == alone.text
        assert [(w.text, w.start_s, w.end_s) for w in one.words] == [
            (w.text, w.start_s, w.end_s) for w in alone.words
        ]
        assert [word.confidence for word in one.words] == pytest.approx(
            [word.confidence for word in alone.words], abs=1e-3
        )
    assert sum(len(one.words) for one in together) > 10


def test_words_are_in_order_within_the_input_and_in_its_segments(
    exp: Path, babble: np.ndarray
) -> None:
    found = asr.load(exp, "cpu", window_s=8.0, overlap_s=2.0).transcribe(babble[:400_123], RATE)
    times = [time for word in found.words for time in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= found.duration_s == 400_123 / RATE
    assert found.text == str(found) == " ".join(word.text for word in found.words)
    for segment in found.segments:
        assert segment.text == " ".join(word.text for word in segment.words)
        assert (segment.start_s, segment.end_s) == (
            segment.words[0].start_s,
            segment.words[-1].end_s,
        )
    for before, after in itertools.pairwise(found.segments):
        assert before.end_s <= after.start_s


def test_beam_gives_its_n_best(local_model: Model, babble: np.ndarray) -> None:
    speech = babble[: 3 * RATE]
    options = SearchOptions(search="beam", beam=4, num_best=3)
    found = Transcriber(local_model, options).transcribe(speech, RATE)
    with torch.inference_mode():
        log_probs = local_model.net(torch.from_numpy(speech)[None], torch.tensor([len(speech)]))
    expected = prefix_beam(*log_probs, beam=4, num_best=3)[0]
    (segment,) = found.segments
    assert [one.score for one in segment.alternatives] == pytest.approx(
        [one.score for one in expected], abs=1e-3
    )
    texts = [" ".join(local_model.tokenizer.decode(one.tokens).split()) for one in expected]
    assert [one.text for one in segment.alternatives] == texts
    assert segment.text == texts[0]


def test_hotwords_are_normalised_as_the_models_texts_were(
    local_model: Model, babble: np.ndarray
) -> None:
    """ "Fox!" is "fox" for a model that writes small letters alone."""
    speech = babble[: 3 * RATE]

    def scores(*hotwords: str) -> list[tuple[str, float]]:
        options = SearchOptions(
            search="beam", beam=4, num_best=3, hotwords=hotwords, hotword_bonus=50.0
        )
        (segment,) = Transcriber(local_model, options).transcribe(speech, RATE).segments
        return [(one.text, one.score) for one in segment.alternatives]

    plain = scores("o")
    assert plain != scores("x")
    assert scores("O!") == scores(" O ", "o") == plain
    with pytest.raises(InputError, match=r"hotword '\.\.\.': no letters in it"):
        scores("...")
    with pytest.raises(InputError, match="hotword 'Ωx': this model never writes 'ω'"):
        scores("Ωx")


def test_what_fails_costs_the_others_nothing(exp: Path, babble: np.ndarray, tmp_path: Path) -> None:
    """A source that fails after windows of it were computed, between two good ones."""
    good, nan = tmp_path / "good.wav", tmp_path / "nan.wav"
    soundfile.write(good, babble[: 4 * RATE], RATE, subtype="FLOAT")
    soundfile.write(nan, np.full(40 * RATE, np.nan), RATE, subtype="FLOAT")
    transcriber = asr.load(exp, "cpu", window_s=4.0, overlap_s=1.0, max_batch_s=4.0)
    first, bad, last = transcriber.transcribe_all([good, nan, tmp_path / "no.wav"])
    assert isinstance(bad.result, Failure)
    assert isinstance(last.result, Failure)
    assert "absurd" in str(bad.result.error)
    assert "no such file" in str(last.result.error)
    assert result(first).text == transcriber.transcribe(good).text != ""
    with pytest.raises(InputError, match="no such file"):
        transcriber.transcribe(tmp_path / "no.wav")


def test_python_gets_what_it_asked_for_or_a_line(
    exp: Path, babble: np.ndarray, tmp_path: Path
) -> None:
    transcriber = asr.load(exp, "cpu")
    stereo_nc = np.stack([babble[:RATE], babble[RATE : 2 * RATE]], axis=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo_nc, RATE, subtype="FLOAT")
    for wrong, message in (
        (stereo_nc, r"shape \(16000, 2\): expected \(n,\) or \(channels, n\)"),
        (torch.from_numpy(babble), r"transcribe\(Tensor\): expected a path or a NumPy array"),
        ([0.0, 0.1], r"transcribe\(list\): expected a path"),
        (None, r"transcribe\(NoneType\): expected a path"),
    ):
        with pytest.raises(InputError, match=message):
            transcriber.transcribe(wrong, RATE)
    second = transcriber.transcribe(stereo_nc.T, RATE, channel=1)
    assert (second.channel, second.words) == (1, transcriber.transcribe(path, channel=1).words)
    for audio, rate in ((path, None), (stereo_nc.T, RATE)):
        with pytest.raises(InputError, match="no channel 0: choose from 1 to 2"):
            transcriber.transcribe(audio, rate, channel=-1)
    for one in (str(path), path):
        (outcome,) = transcriber.transcribe_all(one)
        assert result(outcome).name == str(path)
    with pytest.raises(InputError, match="search = 'beam': must be SearchOptions"):
        asr.load(exp, "cpu", search="beam")


def test_gaps_are_told(exp: Path, babble: np.ndarray, tmp_path: Path) -> None:
    damaged = babble[: 5 * RATE].copy()
    damaged[RATE : 2 * RATE] = np.nan
    found = asr.load(exp, "cpu").transcribe(damaged, RATE)
    assert [(gap.start_s, gap.end_s) for gap in found.gaps] == [(1.0, 2.0)]
    assert found.words[-1].end_s > 2.0


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_long_silence_gives_no_words(local_model: Model, search: str) -> None:
    silence = np.zeros((1, 200 * RATE), np.float32)
    with torch.no_grad():
        local_model.net.heads["ctc"].linear.bias[0] = 1000.0
    found = Transcriber(local_model, SearchOptions(search=search)).transcribe(silence, RATE)
    assert (found.text, found.segments) == ("", ())
    assert found.duration_s == silence.shape[1] / RATE


def test_asr_is_light_until_it_is_asked() -> None:
    import subprocess
    import sys

    code = "import sys, asr; print('torch' in sys.modules, callable(asr.load))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "True"]
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        asr.laod  # type: ignore[attr-defined]  # noqa: B018
