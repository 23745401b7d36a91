"""Configurations of strangers: refused in one line before they cost memory or time."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from asr import config
from asr.compare.experiment import read_experiment
from asr.config.strict_yaml import MAX_BYTES, parse_yaml, read_yaml
from asr.errors import InputError
from asr.run_folder import SEARCH_WEIGHTS
from asr.search.weights import read_tuned

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 60))

REFUSED = {
    "aliases": (LAUGHS, "anchors and aliases (&a0) are refused"),
    "an alias of itself": ("data: &a\n  train: *a\n", "anchors and aliases (&a) are refused"),
    "an alias of nothing": ("data: *a\n", "anchors and aliases (&a) are refused"),
    "a merge": ("train:\n  <<: {epochs: 3}\n", "<< is refused"),
    "a section twice": (
        "optimizer: {lr: 0.5}\ntrain: {epochs: 7}\noptimizer: {eps: 1.0e-6}\n",
        "'optimizer' is written twice in \"<unicode string>\", line 3",
    ),
    "a key twice": ("train: {epochs: 7, seed: 1, epochs: 8}", "'epochs' is written twice"),
    "a date": ("data: {index_folder: 2020-01-02}", "2020-01-02 is a date; a text needs quotes"),
    "a date that does not exist": ("data: 2020-99-99", "month must be in 1..12"),
    "bytes": ("data: {train: [!!binary aGVsbG8=]}", "binary is refused"),
    "a set": ("data: !!set {a, b}", "set is refused"),
    "an object": ("data: !!python/object/apply:os.getcwd []", "os.getcwd is refused"),
    "pairs": ("data: !!omap [a: b]", "omap is refused"),
    "an unknown tag": ("data: !mine x", "!mine is refused"),
    "a list as a key": ("? [a, b]\n: c\n", "a key must be a text"),
    "deep lists": ("data: " + "[" * 10_000, "maximum recursion depth is 16"),
    "deep mappings": ("data: " + "{a: " * 10_000, "maximum recursion depth is 16"),
    "a long number": ("train: {seed: " + "9" * 100_000 + "}", "a number of 100000 digits"),
    "sexagesimal digits": ("train: {seed: 1" + ":1" * 100_000 + "}", "a number of 200001 digits"),
    "OmegaConf's missing": (
        'train: {seed: 1}\nencoder: {num_layers: "???"}',
        "'???' is refused: write a value, or leave the key out in \"<unicode string>\", line 2",
    ),
    "a missing item": ('data: {train: [a, "???"]}', "'???' is refused"),
    "a sexagesimal number": ("train: {seed: 1:30}", "1:30 is refused: write numbers in plain"),
    "a sexagesimal fraction": ("optimizer: {lr: 1:30.5}", "1:30.5 is refused"),
    "an octal number": ("train: {seed: 012}", "012 is refused: write numbers in plain decimal"),
    "a negative octal number": ("train: {seed: -012}", "-012 is refused"),
    "a hexadecimal number": ("train: {seed: 0x1F}", "0x1F is refused"),
    "a binary number": ("train: {seed: 0b11}", "0b11 is refused"),
    "an underscored number": ("train: {seed: 1_000}", "1_000 is refused"),
    "an underscored fraction": ("optimizer: {lr: 1_0.5}", "1_0.5 is refused"),
    "half a character": ('data: {train: ["\\ud800"]}', "half a character"),
    "NUL": ('data: {train: ["a\\0b"]}', "holds NUL"),
    "a control character": ("data:\x0b", "unacceptable character #x000b"),
    "a truth value that is none": ("train: {seed: !!bool x}", "x"),
    "a number without digits": ('train: {seed: !!int ""}', "index out of range"),
    "a date that is none": ("train: {seed: !!timestamp x}", "group"),
    "two documents": ("train: {epochs: 1}\n---\ntrain: {epochs: 2}\n", "single document"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, message = REFUSED[name]
    path = tmp_path / "me.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        config.load([path])
    assert str(caught.value).startswith(f"{path}: not valid yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_what_is_not_a_small_file_of_text(tmp_path: Path) -> None:
    path = tmp_path / "me.yaml"
    os.mkfifo(path)
    with pytest.raises(InputError, match="not a file"):  # and does not wait for a writer
        config.load([path])
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes, this has {1 << 40}"):
        config.load([path])
    path.write_bytes(b"data: {train: [caf\xe9]}")
    with pytest.raises(InputError, match="not valid yaml: 'utf-8' codec"):
        config.load([path])


def test_search_settings_and_compared_experiments_are_read_by_the_same_reader(
    tmp_path: Path,
) -> None:
    for name in (SEARCH_WEIGHTS, "config.yaml"):
        (tmp_path / name).write_text(LAUGHS)
    (tmp_path / "run.json").write_text('{"name": "a", "weighting": "sigmoid", "position": "none"}')
    with pytest.raises(InputError, match="anchors and aliases"):
        read_tuned(tmp_path)
    with pytest.raises(InputError, match=r"config\.yaml: not valid yaml: anchors and aliases"):
        read_experiment(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a: {b: 1, c: -2.5e-3, d: true, e: null, f: text, g: 'quoted', h: [1, [x]]}",
        "a: |\n  many\n  lines\n",
        "\ufeffa: 1",
        "a: 0\nb: '010'\nc: .inf\nd: +1000\ne: ~\nf: yes\ng: '1:30'\nh: 0.5\ni: 08_a\n",
        "{}",
        "",
        "# nothing\n",
        "a: '&b *b <<'\n",
    ],
)
def test_plain_yaml_is_read_as_by_its_own_reader(text: str) -> None:
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("value", ["'???'", "012", "1:30", "0x10", "1_0"])
def test_an_override_is_read_as_strictly(value: str) -> None:
    with pytest.raises(InputError, match=r"override .train\.epochs=") as caught:
        config.load([], [f"train.epochs={value}"])
    assert "is refused: write" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_section_without_a_key_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "me.yaml"
    path.write_text("train:\n  # epochs: 3\noptimizer: {lr: 0.5}\n")
    loaded = config.load([path])
    assert loaded.train == config.Config().train
    assert loaded.optimizer.lr == 0.5


NUMBERS = [
    (key, item)
    for key, _, item in config.walk(config.Config())
    if any(kind in str(item.type) for kind in ("int", "float"))
]


@pytest.mark.parametrize(("key", "item"), NUMBERS, ids=[key for key, _ in NUMBERS])
def test_every_number_is_bounded_on_both_sides(key: str, item: object) -> None:
    metadata = item.metadata  # type: ignore[attr-defined]
    if metadata["choices"]:
        return
    assert metadata["low"] is not None, key
    assert metadata["high"] is not None, key
    value = ".inf" if "float" in str(item.type) else "1" + "0" * 60  # type: ignore[attr-defined]
    listed = f"[{value}]" if "list" in str(item.type) else value  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=re.escape(f"{key} = ")):
        config.load([], [f"{key}={listed}"])


@pytest.mark.parametrize("value", ["-.inf", ".nan", "1.0e+400", "'" + "9" * 5000 + "'", "-1e9"])
def test_numbers_that_no_option_has(value: str) -> None:
    for key in ("optimizer.lr", "optimizer.betas"):
        listed = f"[{value}]" if key.endswith("betas") else value
        with pytest.raises(InputError, match=re.escape(key)) as caught:
            config.load([], [f"{key}={listed}"])
        assert len(str(caught.value)) < 600


def test_a_window_is_bounded_whatever_the_rate() -> None:
    assert config.load([], ["features.sample_rate=192000", "features.frame_ms=40"])
    with pytest.raises(InputError, match="a window may have 8192 samples"):
        config.load([], ["features.sample_rate=192000", "features.frame_ms=50"])


def test_the_reader_names_what_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: cannot read search setting: No such file"):
        read_yaml(tmp_path / "none.yaml", "search setting")
