"""Synthetic speech: the grammar's figures, the voices, and the same bytes for the same seed."""

import importlib.util
import io
import math
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr.data.corpora.synthetic import corpus, grammar, render
from asr.data.corpora.synthetic.corpus import prepare_synthetic, read_marker
from asr.data.corpora.synthetic.espeak import Espeak
from asr.data.corpora.synthetic.grammar import (
    CLASSES,
    RULES,
    class_sequences,
    draw_sentence,
    entropy,
)
from asr.data.corpora.synthetic.render import Plan
from asr.data.corpora.synthetic.voices import ACCENTS, VOICES
from asr.data.store.manifest import read_cuts
from asr.data.store.preparation import ENCODER_FRAME_S
from asr.errors import InputError
from asr.heads.ctc import frames_needed

needs_espeak = pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None, reason="extra `synthetic` not installed"
)
PLAN = Plan(seed=3, num_dev=30, num_test=40)
TEXT = "the old farmer painted seven boats near the river"


# The grammar


def test_every_word_is_in_exactly_one_class() -> None:
    counts = Counter(word for words in CLASSES.values() for word in words)
    assert max(counts.values()) == 1
    assert all(word.isalpha() and word.islower() for word in counts)
    assert len(counts) >= 400


def expand(symbol: str, rng: np.random.Generator) -> list[str]:
    """A sampler of its own: walks the rules, knows nothing of enumerated sequences."""
    if symbol not in RULES:
        return [symbol]
    weights = np.array([weight for weight, _ in RULES[symbol]], dtype=float)
    choice = RULES[symbol][rng.choice(len(weights), p=weights / weights.sum())][1]
    return [name for part in choice.split() for name in expand(part, rng)]


def test_entropy_against_sentences_sampled_by_walking_the_rules() -> None:
    probability = dict(class_sequences())
    assert sum(probability.values()) == pytest.approx(1.0, abs=1e-12)
    rng = np.random.default_rng(0)
    bits: list[float] = []
    lengths: list[int] = []
    while len(bits) < 4000:
        sequence = tuple(expand("sentence", rng))
        if grammar.MIN_WORDS <= len(sequence) <= grammar.MAX_WORDS:
            per_word = sum(math.log2(len(CLASSES[name])) for name in sequence)
            bits.append(per_word - math.log2(probability[sequence]))
            lengths.append(len(sequence))
    exact = entropy()
    for sample, value in ((bits, exact.bits_per_sentence), (lengths, exact.words_per_sentence)):
        error = np.std(sample) / math.sqrt(len(sample))
        assert abs(np.mean(sample) - value) < 4 * error


def test_guessing_is_hopeless_and_the_whole_vocabulary_is_said() -> None:
    exact = entropy()
    assert exact.perplexity > 30
    assert exact.bits_per_word == pytest.approx(math.log2(exact.perplexity))
    rng = np.random.default_rng(0)
    said = {word for _ in range(4000) for word in draw_sentence(rng)}
    assert said == set(grammar.vocabulary())


def test_sentences_follow_the_rules() -> None:
    class_of = {word: name for name, words in CLASSES.items() for word in words}
    known = {sequence for sequence, _ in class_sequences()}
    rng = np.random.default_rng(1)
    for _ in range(200):
        words = draw_sentence(rng)
        assert grammar.MIN_WORDS <= len(words) <= grammar.MAX_WORDS
        assert tuple(class_of[word] for word in words) in known


@needs_espeak
@pytest.mark.parametrize("accent", ACCENTS)
def test_no_two_words_sound_alike(accent: str) -> None:
    words = grammar.vocabulary()
    # Marks of stress, length and syllable boundaries tell nothing apart by ear alone.
    spoken = [
        sound.translate(dict.fromkeys(map(ord, "',;:%_|=")))
        for sound in Espeak().phonemes(words, accent)
    ]
    assert all(spoken)
    alike = [pair for pair, count in Counter(spoken).items() if count > 1]
    assert not alike, [w for w, s in zip(words, spoken, strict=True) if s in alike]


@needs_espeak
def test_espeak_does_know_homophones() -> None:
    two, too, ten = Espeak().phonemes(["two", "too", "ten"], "en-us")
    assert two == too != ten


# Voices


def test_held_out_timbres_and_speakers() -> None:
    assert len(VOICES["train"]) >= 40
    for one, other in combinations(VOICES, 2):
        assert not {v.variant for v in VOICES[one]} & {v.variant for v in VOICES[other]}
        assert not {v.speaker for v in VOICES[one]} & {v.speaker for v in VOICES[other]}
    every = [voice for voices in VOICES.values() for voice in voices]
    assert len({voice.name for voice in every}) == len(every)
    assert {voice.accent for voice in VOICES["test"]} <= {v.accent for v in VOICES["train"]}
    assert {voice.sex for voice in VOICES["test"]} == {"M", "F"}


@needs_espeak
def test_every_voice_speaks_and_no_two_alike() -> None:
    espeak = Espeak()
    found: dict[bytes, str] = {}
    for voices in VOICES.values():
        for voice in voices:
            samples = espeak.speak("seven boats", voice.accent, voice.variant).samples
            assert 0.3 < len(samples) / 22050 < 2, voice.name
            assert np.abs(samples.astype(int)).max() > 2000, voice.name
            assert found.setdefault(samples.tobytes(), voice.name) == voice.name


@needs_espeak
def test_unknown_voices_are_refused() -> None:
    with pytest.raises(InputError, match="m99"):
        Espeak().speak(TEXT, "en-us", "m99")
    with pytest.raises(InputError, match="en-mars"):
        Espeak().speak(TEXT, "en-mars", "m1")


@needs_espeak
def test_espeak_forgets_what_it_said_before() -> None:
    variants = ("m1", "f2", "f5", "m3", "klatt4", "caleb", "antonio", "pablo")
    alone = {name: Espeak().speak(TEXT, "en-us", name).samples for name in variants}
    espeak, other = Espeak(), Espeak()
    for name in reversed(variants):
        other.speak("something else", "en-029", "f4", rate_wpm=200, pitch=80, seed=9)
        np.testing.assert_array_equal(espeak.speak(TEXT, "en-us", name).samples, alone[name])


@needs_espeak
def test_rate_pitch_and_word_times() -> None:
    espeak = Espeak()
    slow = espeak.speak(TEXT, "en-us", "m1", rate_wpm=140)
    fast = espeak.speak(TEXT, "en-us", "m1", rate_wpm=210)
    assert len(fast.samples) < 0.8 * len(slow.samples)
    high = espeak.speak(TEXT, "en-us", "m1", rate_wpm=140, pitch=80)
    assert not np.array_equal(high.samples[:5000], slow.samples[:5000])
    starts = slow.word_starts_s
    assert len(starts) == len(TEXT.split())
    given = [at for at in starts if at is not None]
    assert all(a < b for a, b in pairwise(given))
    assert given[-1] < len(slow.samples) / slow.sample_rate
    # A comma makes a pause, and the word after it starts after that pause.
    paused = espeak.speak("tomorrow, seven", "en-us", "m1")
    at = paused.word_starts_s[1]
    assert at is not None
    before = paused.samples[: int(at * paused.sample_rate)][-1000:]
    after = paused.samples[int(at * paused.sample_rate) :][:5000]
    assert np.abs(before.astype(int)).max() < 0.2 * np.abs(after.astype(int)).max()


# Utterances


def test_train_never_says_a_held_out_sentence() -> None:
    held_out = [render.sentence(PLAN, "dev", n) for n in range(30)]
    held_out += [render.sentence(PLAN, "test", n) for n in range(40)]
    assert len(set(held_out)) == len(held_out)
    train = {render.sentence(PLAN, "train", n) for n in range(3000)}
    assert not train & set(held_out)


def test_a_collision_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only twelve sentences exist: without the check training would say a held-out one.
    drawn = [(f"word{n}",) for n in range(12)]
    monkeypatch.setattr(render, "draw_sentence", lambda rng: drawn[int(rng.integers(len(drawn)))])
    plan = Plan(seed=77, num_dev=4, num_test=4)
    held_out = {render.sentence(plan, "dev", n) for n in range(4)}
    held_out |= {render.sentence(plan, "test", n) for n in range(4)}
    assert len(held_out) == 8
    train = {render.sentence(plan, "train", n) for n in range(100)}
    assert train == set(drawn) - held_out


@needs_espeak
def test_an_utterance_depends_on_its_seed_part_and_index_alone() -> None:
    alone = render.render(PLAN, "train", 5)
    again = render.render_range(PLAN, "train", 2, 8)[3]
    assert again == alone
    assert render.render(Plan(4, 30, 40), "train", 5).flac != alone.flac
    assert render.render(PLAN, "test", 5).flac != alone.flac


@needs_espeak
def test_what_utterances_sound_like() -> None:
    found = [render.render(PLAN, "train", index) for index in range(0, 84, 3)]
    found += [render.render(PLAN, "test", index) for index in range(0, 40, 2)]
    for item in found:
        samples, rate = soundfile.read(io.BytesIO(item.flac), dtype="float32")
        assert rate == 16000
        duration_s = item.num_samples / rate
        assert len(samples) == item.num_samples
        assert 1.0 < duration_s < 6.0
        peak = np.abs(samples).max()
        assert 0.02 < peak < 0.95
        frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
        loudness_db = 20 * np.log10(np.sqrt((frames**2).mean(1)) + 1e-9)
        # Frames of 10 ms that stand out of the noise. At most 0.12 s at an edge are without speech,
        # but a soft last consonant may drown.
        loud = np.flatnonzero(loudness_db > np.percentile(loudness_db, 2) + 6)
        assert loud[0] <= 20, item.id
        assert len(frames) - 1 - loud[-1] <= 20, item.id
        text = " ".join(item.words)
        assert frames_needed(text) <= duration_s / ENCODER_FRAME_S
        starts = [at for at in item.word_starts_s if at is not None]
        assert len(item.word_starts_s) == len(item.words)
        assert starts == sorted(starts)
        assert 0 <= starts[0] < 0.2
        assert starts[-1] < duration_s


# The corpus


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@needs_espeak
def test_the_same_bytes_whatever_the_number_of_processes(tmp_path: Path) -> None:
    hours = 0.02
    (tmp_path / "a").mkdir()
    leftover = tmp_path / "a" / ".corpus.partial" / "train"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    one = prepare_synthetic(tmp_path / "a", hours, seed=1, num_jobs=1, num_dev=3, num_test=5)
    two = prepare_synthetic(tmp_path / "b", hours, seed=1, num_jobs=2, num_dev=3, num_test=5)
    assert contents(tmp_path / "a" / "corpus") == contents(tmp_path / "b" / "corpus")
    assert [(r.part, r.num_utterances) for r in one][1:] == [("dev", 3), ("test", 5)]
    assert not any(report.left_out for report in one)
    assert [r.duration_s for r in one] == [r.duration_s for r in two]
    assert hours <= one[0].hours < hours + 0.002
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir()) == ["corpus"]
    cuts = read_cuts(tmp_path / "a" / "train.cuts.jsonl.gz")
    speakers = (tmp_path / "a" / "corpus" / "SPEAKERS.TXT").read_text()
    timed = dict(
        line.split(maxsplit=1)
        for line in (tmp_path / "a" / "corpus" / "train.words.txt").read_text().splitlines()
    )
    for cut in cuts:
        (supervision,) = cut.supervisions
        assert f"{supervision.speaker} | " in speakers
        assert len(timed[cut.id].split()) == len(supervision.text.split())
        assert supervision.text == supervision.text.upper()


@needs_espeak
def test_a_complete_corpus_stays_and_another_seed_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(seed: int) -> None:
        prepare_synthetic(tmp_path, 0.002, seed, num_jobs=1, num_dev=1, num_test=1)

    make(1)
    first = contents(tmp_path)
    marker = tmp_path / "corpus" / corpus.MARKER
    made_ns = marker.stat().st_mtime_ns
    make(1)
    assert marker.stat().st_mtime_ns == made_ns
    assert contents(tmp_path) == first

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(corpus, "_write_speakers", fail)
        with pytest.raises(KeyboardInterrupt):
            make(2)
    still = {name: content for name, content in contents(tmp_path).items() if name[0] != "."}
    assert still == first  # interrupted: the old corpus is whole
    make(2)
    second = contents(tmp_path)
    assert second["corpus/" + corpus.MARKER] != first["corpus/" + corpus.MARKER]
    assert not any(name.startswith(".") for name in second)
    found = read_marker(tmp_path / "corpus")
    assert found is not None
    assert found["parameters"]["seed"] == 2


def test_bad_values_and_foreign_folders(tmp_path: Path) -> None:
    for hours in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="hours"):
            prepare_synthetic(tmp_path, hours, seed=1)
    with pytest.raises(InputError, match="seed"):
        prepare_synthetic(tmp_path, 0.01, seed=-1)
    with pytest.raises(InputError, match="num_dev"):
        prepare_synthetic(tmp_path, 0.01, seed=1, num_dev=0)
    with pytest.raises(InputError, match="num_test"):
        prepare_synthetic(tmp_path, 0.01, seed=1, num_test=0)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "precious.txt").write_text("not ours")
    with pytest.raises(InputError, match="not made by this command"):
        prepare_synthetic(tmp_path, 0.01, 1)
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus", "precious.txt"]


def test_without_espeak_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install sigmoid-asr\[synthetic\]"):
        prepare_synthetic(tmp_path, 0.01, 1)
    assert not list(tmp_path.iterdir())


def test_describe_reports_entropy_and_voices() -> None:
    text = "\n".join(corpus.describe())
    assert f"perplexity {entropy().perplexity:.1f}" in text
    assert f"train {len(VOICES['train'])}" in text
