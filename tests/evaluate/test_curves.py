"""Training curves: what is read from the log, and a picture that shows it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from asr.errors import InputError
from asr.evaluate.curves import as_png, draw_curves, new_figure, read_curves

LOG = [
    {"kind": "train", "step": 10, "epoch": 0, "loss": 5.0, "lr": 1e-4},
    {"kind": "skipped", "step": 11, "loss": "nan", "utterances": ["u1"]},
    {"kind": "train", "step": 20, "epoch": 0, "loss": float("nan")},
    {"kind": "train", "step": 30, "epoch": 0, "loss": 2.0},
    {"kind": "valid", "step": 30, "epoch": 1, "loss": 3.0, "wer": 0.5},
]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def write_log(exp: Path) -> None:
    text = "".join(json.dumps(record) + "\n" for record in LOG)
    (exp / "log.jsonl").write_text(text + '{"kind": "tra')


def test_curves_are_read(tmp_path: Path) -> None:
    exp = made(tmp_path / "a")
    write_log(exp)
    curves = read_curves(exp)
    assert curves.name == "a"
    assert curves.train_loss == [(10, 5.0), (30, 2.0)]
    assert curves.valid_loss == [(30, 3.0)]
    assert curves.valid_wer == [(30, 0.5)]


def test_picture_of_the_curves(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    folders = [made(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        write_log(folder)
    pixels = image.imread(io.BytesIO(draw_curves(folders)))
    height, width, _ = pixels.shape
    assert width > 1000
    assert height > 400
    # Both systems' colours are drawn in both halves.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        found = np.abs(pixels[..., :3] * 255 - colour).max(axis=-1) < 3
        assert found[:, : width // 2].any()
        assert found[:, width // 2 :].any()


@pytest.mark.parametrize("name", ["a$_^$b", "x $\\frac$ y", "one $ and \\$ two", "_new|<b>"])
def test_names_are_read_as_they_are(name: str, tmp_path: Path) -> None:
    """What matplotlib would take for a formula, also beside axes whose ticks are formulas."""
    pytest.importorskip("matplotlib")
    exp = made(tmp_path / name)
    write_log(exp)
    assert len(draw_curves([exp])) > 1000
    figure = new_figure(3, 3)
    axes = figure.subplots()
    axes.set_title(name)
    axes.plot([1, 2], [1, 1e6], label=name.strip("_"))
    axes.set_yscale("log")
    axes.legend()
    axes.set_xticks([1, 2], [name, "1"])
    as_png(figure)
    texts = [axes.title, *axes.get_xticklabels(), *axes.get_legend().get_texts()]
    assert not any(text.get_parse_math() for text in texts)
    powers = [text for text in axes.get_yticklabels() if text.get_text()]
    assert powers
    assert all(text.get_parse_math() for text in powers)


def test_curves_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    exp = made(tmp_path / "a")
    (exp / "log.jsonl").write_text("")
    assert len(draw_curves([exp])) > 1000


def test_curves_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp = made(tmp_path / "a")
    with pytest.raises(InputError, match=r"log\.jsonl: cannot read"):
        read_curves(exp)
    (exp / "log.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="line 1: not a record with a step"):
        read_curves(exp)
    for step in ("true", "-1", "1" * 400, '"1"'):
        (exp / "log.jsonl").write_text(f'{{"step": {step}}}\n')
        with pytest.raises(InputError, match="line 1: not a record with a step"):
            read_curves(exp)
    (exp / "log.jsonl").write_text('{"kind": "train", "step": 1, "loss": 1' + "0" * 400 + "}\n")
    assert read_curves(exp).train_loss == []
    (exp / "log.jsonl").write_text("")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"pip install 'sigmoid-asr\[plot\]'"):
        draw_curves([exp])
