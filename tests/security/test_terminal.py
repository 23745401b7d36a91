"""A stranger's results on our terminal: texts show and steer nothing, sizes and numbers have bounds."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from made_experiments import write_decoded, write_experiment

from asr.compare.compare import compare
from asr.compare.tables import format_markdown, format_terminal
from asr.decode.score import format_score, score_folder
from asr.errors import InputError
from asr.printable import printable
from asr.wer import edit_distance

EVIL = "\x1b[2Jx\x9by\x7f\n\r\u202ez\u2066\u200f\u2028\u061c"
SPELLED = "\\x1b[2Jx\\x9by\\x7f\\x0a\\x0d\\u202ez\\u2066\\u200f\\u2028\\u061c"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def test_what_steers_a_terminal_is_spelled_out_once() -> None:
    assert printable(EVIL) == SPELLED
    assert printable(SPELLED) == SPELLED
    assert printable("\udc80\t\x00") == "\\udc80\\x09\\x00"


def test_no_character_that_is_left_steers() -> None:
    shown = printable("".join(map(chr, range(0x110000))))
    assert not UNSAFE.search(shown)
    assert "\n" not in shown
    shown.encode()


@pytest.mark.parametrize(
    "text", ["", "a b\\c", "日本語", "हिन्दी", "עברית العربية", "👩\u200d🚀 é\u00a0x"]
)
def test_scripts_stay(text: str) -> None:
    assert printable(text) == text


def write_set(folder: Path, texts: list[tuple[str, str]], **decoding: Any) -> Path:
    """Utterances of one speaker."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"id": f"u{k}", "speaker": "s", "duration_s": 1.0, "reference": one, "hypothesis": other}
        for k, (one, other) in enumerate(texts)
    ]
    (folder / "hypotheses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {"set": "test", "normaliser": "none", "num_utterances": len(texts), **decoding}
    (folder / "decode.json").write_text(json.dumps(content))
    return folder


def test_score_prints_and_lists_no_escapes(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "test", [("a b\x1b[2Jc", "a \u202eb")], search=EVIL, set=EVIL)
    line = json.loads((folder / "hypotheses.jsonl").read_text())
    text = json.dumps({**line, "speaker": EVIL, "id": EVIL})
    (folder / "hypotheses.jsonl").write_text(text + "\n")
    shown = format_score(score_folder(folder))
    listing = (folder / "alignment.txt").read_text()
    assert not UNSAFE.search(shown + listing)
    assert len(shown.splitlines()) == 7
    assert shown.count(SPELLED) == 3
    assert "b\\x1b[2Jc" in listing
    assert "\\u202eb" in listing


def test_compare_prints_and_writes_no_escapes(tmp_path: Path) -> None:
    plain, folders = [], []
    for which, text in ((plain, "word"), (folders, EVIL)):
        for seed in (1, 2):
            exp = tmp_path / f"{text == EVIL}{seed}"
            keys = ("weighting", "position", "encoder", "commit", "command")
            write_experiment(exp, name=f"{text}{seed}", seed=seed, **dict.fromkeys(keys, text))
            write_decoded(exp, "test", 0.2 * seed, seed=seed, search=f"{text}{seed}", device=text)
            which.append(exp)
    expected, shown = (format_terminal(compare(each)) for each in (plain, folders))
    assert not UNSAFE.search(shown)
    assert len(shown.splitlines()) == len(expected.splitlines())
    expected, shown = (format_markdown(compare(each)) for each in (plain, folders))
    assert not UNSAFE.search(shown)
    assert len(shown.splitlines()) == len(expected.splitlines())


LONG = [
    ("a " * 200_000, "b " * 200_000, "200000 words of reference and 200000 of hypothesis"),
    ("a" * 3_000_000, "b" * 3_000_000, "3000000 characters of reference and 3000000 of hypothesis"),
]


@pytest.mark.parametrize(("reference", "hypothesis", "sizes"), LONG, ids=["words", "characters"])
def test_texts_too_long_to_score_are_refused_at_once(
    reference: str, hypothesis: str, sizes: str, tmp_path: Path
) -> None:
    exp = write_experiment(tmp_path / "exp")
    folder = write_set(exp / "decode" / "test", [("a", "a"), (reference, hypothesis)])
    (folder / "score.json").write_text("{}")
    begun = time.monotonic()
    for refused in (lambda: score_folder(folder), lambda: compare([exp])):
        with pytest.raises(InputError) as raised:
            refused()
        message = str(raised.value)
        assert message.startswith(f"{folder}/hypotheses.jsonl, line 2: utterance 'u1' has {sizes}")
        assert re.search(r"at most 1e\+?\d+ can be scored$", message)
        assert len(message) < 400 + len(str(folder))
    assert time.monotonic() - begun < 10


def test_many_long_texts_are_refused_together(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "test", [("a " * 30_000, "b " * 30_000)] * 30)
    with pytest.raises(
        InputError, match=r"line 23: utterance 'u22' .* with those before it 2\.1e\+10"
    ):
        score_folder(folder)


def test_one_long_word_against_a_short_one_takes_no_time(tmp_path: Path) -> None:
    begun = time.monotonic()
    score = score_folder(
        write_set(tmp_path / "test", [("a" * 3_000_000, "ba"), ("b", "a" * 3_000_000)])
    )
    assert score.total.character_errors == 2_999_999 + 3_000_000
    assert time.monotonic() - begun < 15


def test_an_hour_of_speech_is_scored(tmp_path: Path) -> None:
    words = [f"w{k % 3000}" for k in range(12_000)]
    heard = [word for k, word in enumerate(words) if k % 10]
    score = score_folder(write_set(tmp_path / "test", [(" ".join(words), " ".join(heard))]))
    assert score.total.counts.deletions == 1200


def test_characters_that_are_all_different_fill_no_memory() -> None:
    import tracemalloc

    text = "".join(map(chr, range(0xE000, 0xE000 + 20_000)))
    tracemalloc.start()
    assert edit_distance(text, text[1:]) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    folders = [write_experiment(tmp_path / name) for name in ("one", "other")]
    for seed, exp in enumerate(folders):
        write_decoded(exp, "test", 0.2, seed=seed)
    return folders


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("run.json", "num_params", -5),
        ("run.json", "num_params", 10**300),
        ("run.json", "num_params", 10**400),
        ("run.json", "train_audio_s_per_s", 1e308),
        ("run.json", "seed", -1),
        ("run.json", "name", "n" * 5000),
        ("decode/test/decode.json", "rtf", -1),
        ("decode/test/decode.json", "rtf", 1e308),
        ("decode/test/decode.json", "beam", -2),
        ("decode/test/decode.json", "search", "s" * 5000),
        ("decode/test/decode.json", "num_utterances", -1),
        ("decode/test/score.json", "cer", -0.5),
        ("decode/test/score.json", "cer", 1e308),
    ],
)
def test_numbers_out_of_range_are_refused(
    name: str, key: str, value: Any, pair: list[Path]
) -> None:
    path = pair[1] / name
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(InputError) as raised:
        compare(pair)
    message = str(raised.value)
    assert message.startswith(f"{path}: {key!r} ")
    assert len(message) < 200 + len(str(path))
    assert "\n" not in message


def test_compare_counts_the_utterances_as_score_does(pair: list[Path]) -> None:
    folder = pair[1] / "decode" / "test"
    content = json.loads((folder / "decode.json").read_text())
    (folder / "decode.json").write_text(json.dumps({**content, "num_utterances": 99999}))
    messages = []
    for refused in (lambda: score_folder(folder), lambda: compare(pair)):
        with pytest.raises(InputError, match="but 99999 were to be decoded") as raised:
            refused()
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
