"""Language models of strangers: damage is named, and nothing costs more than the file is long."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr.config import TokenizerConfig
from asr.errors import InputError
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.kneser_ney import estimate
from asr.lm.neural import NeuralConfig, NeuralLm, load_neural, save_neural
from asr.search.options import SearchOptions
from asr.search.weights import Tuned, Weights, read_tuned, write_tuned
from asr.text.tokenizer import train_tokenizer

PLAIN = (
    "\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-1.0\t<unk>\n-99\t<s>\t-0.3\n-0.7\t</s>\n"
    "-0.9\tthe\t-0.2\n-1.1\tcat\t-0.1\n\n\\2-grams:\n-0.3\t<s> the\n-0.4\tthe cat\n\n\\end\\\n"
)


def scores(path: Path) -> list[float]:
    model = read_arpa(path)
    state, found = model.start(), []
    for word in ("the", "cat", "sat", "the"):
        log_prob, state = model.score(state, word)
        found.append(log_prob)
    return [*found, model.end(state)]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("ngram 1=5", "ngram  1=         5").replace("ngram 2=2", "ngram  2= 2 "),
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "written by hand\n\n" + PLAIN,
        PLAIN + "\n\n",
    ],
)
def test_what_other_programs_write_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "plain.arpa").write_text(PLAIN)
    (tmp_path / "theirs.arpa").write_bytes(text.encode())
    assert scores(tmp_path / "theirs.arpa") == scores(tmp_path / "plain.arpa")


def test_a_probability_of_zero_is_finite(tmp_path: Path) -> None:
    (tmp_path / "lm.arpa").write_text(PLAIN.replace("-1.1\tcat", "-inf\tcat"))
    assert all(score > -1e6 for score in scores(tmp_path / "lm.arpa"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "ngram 1=5",
            "ngram 1=" + "9" * 5000,
            "line 2: expected 'ngram 1=COUNT', found 'ngram 1=99",
        ),
        ("ngram 1=5", "ngram 1=1000000000", "line 5: 1000000002 n-grams do not fit into this file"),
        ("ngram 2=2", "ngram 2=100", "line 5: 105 n-grams do not fit into this file"),
        ("ngram 2=2", "ngram 2=-2", "line 3: expected"),
        ("ngram 2=2", "ngram 2=\u0662", "line 3: expected"),
        (
            "ngram 2=2",
            "".join(f"ngram {order}=0\n" for order in range(2, 18)),
            "line 18: n-grams of at most 16 words",
        ),
        ("-0.4\tthe cat", "-0.4\tthe " + "cat " * 50_000, "line 14: a line of 65536 bytes or more"),
        ("cat\t-0.1", "cat\t1e39", "line 10: log10 back-off 1e39: must be at most 10000"),
        ("cat\t-0.1", "cat\t-inf", "line 10: log10 back-off -inf"),
        ("-1.1\tcat", "nan\tcat", "line 10: log10 probability nan: must be 0 or less"),
        ("\\data\\", "iARPA\n\\data\\", "line 1: iARPA is no ARPA; convert it"),
        ("the cat", "the dog", "line 14: 'dog' among the 2-grams is no unigram"),
    ],
)
def test_damage_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in PLAIN
    path = tmp_path / "lm.arpa"
    path.write_text(PLAIN.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_arpa(path)
    assert f"{path}, {message}" in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lm.arpa")
    for path in (tmp_path / "lm.arpa", tmp_path):
        with pytest.raises(
            InputError, match="cannot read: a folder, a pipe or a device, not a file"
        ):
            read_arpa(path)


@pytest.mark.parametrize("line", [b" " * 999 + b"\n", b"-1.0\ta\t-0.5\n" * 100, b"a" * 1000])
def test_a_gzip_bomb_costs_what_a_model_of_its_size_would(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "bomb.arpa.gz"
    head = b"\\data\\\nngram 1=3000000\n\n\\1-grams:\n"
    with gzip.open(path, "wb", 9) as file:
        file.write(head)
        for _ in range(1 << 26 >> 10):
            file.write(line)
    tracemalloc.start()
    with pytest.raises(InputError):
        read_arpa(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_memory_is_in_proportion_to_the_file(tmp_path: Path) -> None:
    count = 20_000
    lines = [f"0\t{number:x}" for number in range(count)]
    head = f"\\data\\\nngram 1={count + 2}\n\n\\1-grams:\n-9\t<s>\n-9\t</s>\n"
    path = tmp_path / "lm.arpa"
    path.write_text(head + "\n".join(lines) + "\n\\end\\\n")
    tracemalloc.start()
    model = read_arpa(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(model.words) == count + 3
    assert peak < 64 * path.stat().st_size


@pytest.mark.parametrize("name", ["lm.arpa", "lm.arpa.gz"])
def test_one_flipped_bit_of_a_written_model_is_an_error_or_changes_nothing(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    write_arpa(estimate([["the", "cat"], ["the", "cat", "sat"], ["a", "cat"]], 3)[0], path)
    content, expected = path.read_bytes(), scores(path)
    rng = random.Random(name)
    num_refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert scores(path) == expected
        except InputError:
            num_refused += 1
    assert num_refused > 200


def test_a_changed_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    write_arpa(estimate([["the", "cat"], ["the", "cat", "sat"]], 2)[0], path)
    first, rest = path.read_text().split("\n", 1)
    assert first.startswith("# sha256 ")
    path.write_text(first + "\n" + rest.replace("-0.", "-1.", 1))
    with pytest.raises(InputError, match=r"lm\.arpa: damaged: its SHA-256 sum"):
        read_arpa(path)
    path.write_text(rest.replace("-0.", "-1.", 1))  # a model without a sum is read as it is
    read_arpa(path)


@pytest.fixture
def neural(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["ab ba"], TokenizerConfig(kind="char"))
    torch.manual_seed(0)
    save_neural(NeuralLm(NeuralConfig(tuple(tokenizer.pieces), dim=8)), tmp_path / "lm")
    return tmp_path / "lm"


def neural_scores(folder: Path) -> list[float]:
    tokenizer = train_tokenizer(["ab ba"], TokenizerConfig(kind="char"))
    return load_neural(folder, tokenizer).score([[2, 3], [4]])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dim", 10**12, "dim = 1000000000000: must be from 1 to 16384"),
        ("dim", -1, "dim = -1: must be from 1"),
        ("dim", 16384, "not the weights of"),
        ("num_layers", 10**9, "num_layers = 1000000000: must be from 1 to 64"),
        ("num_layers", 64, "not the weights of"),
        ("dim", 8.5, "'dim' is 8.5, expected a whole number"),
        ("dropout", 0.5, r"lm\.json: damaged or changed"),
    ],
)
def test_what_lm_json_asks_for_is_checked_before_it_is_given(
    neural: Path, key: str, value: float, message: str
) -> None:
    path = neural / "lm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=message):
        neural_scores(neural)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_a_huge_lm_json_is_not_read(neural: Path) -> None:
    os.truncate(neural / "lm.json", 1 << 40)
    with pytest.raises(InputError, match="bytes, more than"):
        neural_scores(neural)


@pytest.mark.parametrize("name", ["lm.json", "lm.safetensors"])
def test_one_flipped_bit_of_a_neural_model_is_an_error_or_changes_nothing(
    neural: Path, name: str
) -> None:
    content, expected = (neural / name).read_bytes(), neural_scores(neural)
    rng = random.Random(name)
    num_refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (neural / name).write_bytes(damaged)
        try:
            assert neural_scores(neural) == expected
        except InputError:
            num_refused += 1
    assert num_refused > 40


def test_a_neural_model_without_sums_is_read(neural: Path) -> None:
    from safetensors.torch import save_file

    expected = neural_scores(neural)
    save_file(load_file(neural / "lm.safetensors"), neural / "lm.safetensors")
    assert neural_scores(neural) == expected


@pytest.mark.parametrize("value", ["1.0e+300", ".inf", ".nan", "-1.0e+300", "1" + "0" * 60])
def test_search_settings_are_bounded(tmp_path: Path, value: str) -> None:
    path = write_tuned(Tuned("lm", "0", Weights(0.5, 1.0, 5.0), 8, "dev", 0.1), tmp_path)
    text = path.read_text()
    path.write_text(text.replace("word_bonus: 1.0", f"word_bonus: {value}"))
    with pytest.raises(InputError, match=rf"{path}: .*word_bonus"):
        read_tuned(tmp_path)


def test_search_options_are_bounded() -> None:
    with pytest.raises(InputError, match="beam = 1000000000: must be at most"):
        SearchOptions(search="beam", beam=10**9)
    with pytest.raises(InputError, match="must be a finite number"):
        SearchOptions(search="beam", hotword_bonus=1e300)
    with pytest.raises(InputError, match="lm_weight = 1e\\+300: must be at most"):
        Weights(1e300, 0.0, 0.0)
