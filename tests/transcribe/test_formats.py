"""Output files. Oracles: independent parsers (srt, webvtt, praatio) read back what was written."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.search.words import Word
from asr.transcribe import formats, subtitles
from asr.transcribe.result import Alternative, Gap, Segment, Transcript


def transcript(words: list[Word], duration_s: float = 100.0) -> Transcript:
    segments = ()
    if words:
        text = " ".join(word.text for word in words)
        segments = (Segment(text, words[0].start_s, words[-1].end_s, tuple(words)),)
    text = " ".join(segment.text for segment in segments)
    return Transcript("talk.wav", text, segments, duration_s)


def spoken(
    text: str, start_s: float = 1.0, word_s: float = 0.3, pause_s: float = 0.1
) -> list[Word]:
    step_s = word_s + pause_s
    return [
        Word(word, start_s + i * step_s, start_s + i * step_s + word_s, 0.9)
        for i, word in enumerate(text.split())
    ]


@st.composite
def word_lists(draw: st.DrawFn) -> list[Word]:
    """Words in order without overlap: any letters, lengths, pauses."""
    alphabet = st.sampled_from("abcdefghijklmnopqrstuvwxyz'")
    rows = draw(
        st.lists(
            st.tuples(
                st.text(alphabet, min_size=1, max_size=50),
                st.floats(0, 3, allow_subnormal=False),
                st.sampled_from([0.0, 0.04, 0.3, 2.0, 9.0]),
            ),
            max_size=30,
        )
    )
    words, at_s = [], 0.0
    for text, pause_s, length_s in rows:
        words.append(Word(text, at_s + pause_s, at_s + pause_s + length_s, 0.5))
        at_s = words[-1].end_s
    return words


@settings(max_examples=60, deadline=None)
@given(word_lists(), st.floats(0, 5, allow_subnormal=False))
def test_cues_keep_the_rules_and_all_words(words: list[Word], rest_s: float) -> None:
    duration_s = (words[-1].end_s if words else 0.0) + rest_s
    cues = subtitles.make_cues(words, duration_s)
    shown = "".join(line for cue in cues for line in cue.lines).replace(" ", "")
    assert shown == "".join(word.text for word in words)
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(1 <= len(line) <= 42 for line in cue.lines)
        assert 0 <= cue.end_s - cue.start_s <= 7 + 1e-9
        assert cue.end_s <= duration_s + 1e-9
    for before, after in itertools.pairwise(cues):
        assert before.end_s <= after.start_s + 1e-9


def test_cues_of_calm_speech_are_readable() -> None:
    """Two and a half words a second with pauses between sentences: every soft rule can hold."""
    sentences = ["this is what a lecturer says in one calm sentence of some length"] * 12
    words: list[Word] = []
    for number, sentence in enumerate(sentences):
        words += spoken(sentence, start_s=7.0 * number)
    cues = subtitles.make_cues(words, 90.0)
    for cue in cues:
        assert cue.end_s - cue.start_s >= 5 / 6
        assert sum(len(line) for line in cue.lines) / (cue.end_s - cue.start_s) <= 21
    starts = {cue.start_s for cue in cues}
    assert starts >= {7.0 * number + 1 - 1 for number in range(12)}, "sentences begin with a cue"


def test_a_short_word_stays_as_long_as_there_is_room() -> None:
    words = [Word("yes", 1.0, 1.2, 1.0), Word("no", 5.0, 5.2, 1.0), Word("so", 5.3, 5.5, 1.0)]
    first, second = subtitles.make_cues(words, 5.6)
    assert (first.start_s, first.end_s) == (1.0, pytest.approx(1 + 5 / 6))
    assert (second.start_s, second.end_s, second.lines) == (5.0, 5.6, ("no so",))


@settings(max_examples=30, deadline=None)
@given(word_lists())
def test_srt_and_vtt_are_read_back_by_other_libraries(words: list[Word]) -> None:
    srt = pytest.importorskip("srt")
    webvtt = pytest.importorskip("webvtt")
    result = transcript(words, 500.0)
    cues = subtitles.make_cues(words, 500.0)
    expected = [(round(cue.start_s, 3), round(cue.end_s, 3), "\n".join(cue.lines)) for cue in cues]
    parsed = list(srt.parse(formats.to_srt(result)))
    assert [item.index for item in parsed] == list(range(1, len(cues) + 1))
    found = [(i.start.total_seconds(), i.end.total_seconds(), i.content) for i in parsed]
    assert found == [(pytest.approx(a), pytest.approx(b), text) for a, b, text in expected]
    captions = webvtt.from_buffer(io.StringIO(formats.to_vtt(result)))
    found = [(c.start_in_seconds, c.end_in_seconds, c.text) for c in captions]
    assert [text for *_, text in found] == [text for *_, text in expected]


def test_vtt_escapes_markup() -> None:
    assert "\na &lt;b&gt; &amp; c\n" in formats.to_vtt(transcript(spoken("a <b> & c")))


@settings(max_examples=30, deadline=None)
@given(word_lists())
def test_textgrid_is_read_back_by_praatio(words: list[Word]) -> None:
    textgrid = pytest.importorskip("praatio.textgrid")
    from praatio.utilities import textgrid_io

    end_s = (words[-1].end_s if words else 0.0) + 1.0
    text = formats.to_textgrid(transcript(words, end_s))
    parsed = textgrid_io.parseTextgridStr(text, includeEmptyIntervals=True)
    assert textgrid is not None
    assert [tier["name"] for tier in parsed["tiers"]] == ["segments", "words"]
    tier = parsed["tiers"][1]
    entries = [(float(a), float(b), label) for a, b, label in tier["entries"]]
    lasting = [word for word in words if round(word.start_s, 6) < round(word.end_s, 6)]
    assert [label for *_, label in entries if label] == [word.text for word in lasting]
    assert entries[0][0] == 0
    assert entries[-1][1] == pytest.approx(end_s, abs=1e-5)
    for (_, end, _), (start, _, _) in itertools.pairwise(entries):
        assert start == end, "the tier covers all time"


def test_textgrid_doubles_quotes() -> None:
    assert 'text = "say ""so"""' in formats.to_textgrid(transcript([Word('say "so"', 0, 1, 1)]))


def test_tsv_ctm_and_txt_by_hand() -> None:
    words = [Word("good", 0.5, 0.75, 0.9), Word("day", 1.0, 1.25, 0.5)]
    result = transcript(words)
    assert formats.to_txt(result) == "good day\n"
    assert formats.to_tsv(result) == "start\tend\ttext\n500\t1250\tgood day\n"
    assert formats.to_ctm(result) == (
        "talk.wav 1 0.500 0.250 good 0.900\ntalk.wav 1 1.000 0.250 day 0.500\n"
    )
    spaced = Transcript("my talk.wav", "good", result.segments, 2.0)
    assert formats.to_ctm(spaced).startswith("my_talk.wav 1 ")


def test_json_holds_everything() -> None:
    word = Word("hä", 0.50004, 0.75, 0.91239)
    segment = Segment("hä", 0.5, 0.75, (word,), (Alternative("hä", -1.23456),))
    result = Transcript("a.wav", "hä", (segment,), 2.0, (Gap(1.5, None, "truncated"),))
    line = formats.to_json(result)
    assert line.count("\n") == 1
    assert "hä" in line
    assert json.loads(line) == {
        "name": "a.wav",
        "text": "hä",
        "segments": [
            {
                "text": "hä",
                "start_s": 0.5,
                "end_s": 0.75,
                "words": [{"text": "hä", "start_s": 0.5, "end_s": 0.75, "confidence": 0.912}],
                "alternatives": [{"text": "hä", "score": -1.235}],
            }
        ],
        "duration_s": 2.0,
        "gaps": [{"start_s": 1.5, "end_s": None, "reason": "truncated"}],
    }


@pytest.mark.parametrize("name", list(formats.FORMATS))
def test_nothing_said_is_a_valid_file_too(name: str, tmp_path: Path) -> None:
    text = formats.FORMATS[name](transcript([], 3.0))
    assert re.search(r"\w", text) or name in ("txt", "srt", "ctm")
