"""Training curves: what is read from the log, and a picture that shows it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from made_experiments import seeds_of, write_decoded, write_experiment

from asr.cli import main
from asr.compare import curves_picture
from asr.compare.compare import compare
from asr.compare.curves import read_curves
from asr.compare.curves_picture import gather_curves
from asr.errors import InputError
from asr.pictures import as_png, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = [
    {"kind": "train", "step": 10, "epoch": 0, "loss": 5.0, "lr": 1e-4},
    {"kind": "skipped", "step": 11, "loss": "nan", "utterances": ["u1"]},
    {"kind": "train", "step": 20, "epoch": 0, "loss": float("nan")},
    {"kind": "train", "step": 30, "epoch": 0, "loss": 2.0},
    {"kind": "valid", "step": 30, "epoch": 1, "loss": 3.0, "wer": 0.5},
]


def made(folder: Path) -> Path:
    return write_experiment(folder)


def draw_curves(folders: list[Path]) -> bytes:
    comparison = compare(folders, num_resamples=20)
    return curves_picture.draw_curves(comparison, gather_curves(comparison)[0])[0]


def write_log(exp: Path, wer: float = 0.5) -> None:
    records = [record | ({"wer": wer} if "wer" in record else {}) for record in LOG]
    text = "".join(json.dumps(record) + "\n" for record in records)
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
    for folder, wer in zip(folders, (0.5, 0.3), strict=True):
        write_log(folder, wer)
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


def figure_of(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[Figure, list[str], list[str]]:
    """(what is drawn, its legend, its notes)"""
    figures: list[Figure] = []
    monkeypatch.setattr(curves_picture, "as_png", lambda one: figures.append(one) or b"")
    comparison = compare(folders, num_resamples=20)
    _, notes = curves_picture.draw_curves(comparison, gather_curves(comparison)[0])
    (legend,) = figures[0].legends
    return figures[0], [text.get_text() for text in legend.get_texts()], notes


def logged(folders: list[Path]) -> list[Path]:
    """Losses at steps 10 to 40; the k-th run's are k above the first's, and it ends k steps later."""
    for k, folder in enumerate(folders):
        records = [
            {"kind": kind, "step": step, "loss": 40.0 / step + k, "wer": 0.5}
            for step in range(10, 41 + 10 * k, 10)
            for kind in ("train", "valid")
        ]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "log.jsonl").write_text(text)
    return folders


def test_of_many_systems_a_type_is_one_line_the_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    first = logged(seeds_of(tmp_path, "softmax", "alibi", 0.1, count=4))
    second = logged(seeds_of(tmp_path, "sigmoid", "alibi", 0.1, count=4))
    figure, legend, notes = figure_of([*first, *second], monkeypatch)
    seeds = ", mean of the seeds"
    assert legend == ["softmax", "sigmoid", f"training loss{seeds}", f"dev loss{seeds}"]
    assert notes == []
    losses, wers = figure.axes
    assert len(losses.get_lines()) == 2 * 2
    assert len(wers.get_lines()) == 2
    for line in losses.get_lines():
        # 0 to 3 above the first, at the steps that all four have
        assert line.get_xydata().tolist() == [[s, 40.0 / s + 1.5] for s in (10, 20, 30, 40)]


def test_of_many_types_each_position_has_its_panels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    positions = ("none", "alibi", "rope", "relative")
    folders = [
        folder
        for position in positions
        for weighting in ("softmax", "sigmoid")
        for folder in seeds_of(tmp_path, weighting, position, 0.1, count=2)
    ]
    figure, legend, _ = figure_of(logged(folders), monkeypatch)
    assert [axes.get_title() for axes in figure.axes] == [*positions, *[""] * 4]
    assert legend[:2] == ["softmax", "sigmoid"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [4] * 4 + [2] * 4


def test_beyond_the_colours_systems_are_grey_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    folders = logged([made(tmp_path / f"run{k}") for k in range(9)])
    _, legend, notes = figure_of(folders, monkeypatch)
    assert legend == [*(f"run{k}" for k in range(7)), "2 more", "training loss", "dev loss"]
    assert notes == ["curves.png: the grey lines are run7, run8"]


def test_a_folder_without_a_log_is_compared(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    folders = [made(tmp_path / name) for name in ("a", "b", "c")]
    for folder in folders:
        write_decoded(folder, "test", 0.1)
    write_log(folders[0])
    (folders[2] / "log.jsonl").write_text("[1]\n")
    assert main(["compare", *map(str, folders), "--out", str(tmp_path / "out")]) == 0
    notes = json.loads((tmp_path / "out" / "compare.json").read_text())["notes"]
    assert notes[-2].startswith("b: no training curves: ")
    assert notes[-2].endswith("log.jsonl: cannot read: No such file or directory")
    assert notes[-1].endswith("log.jsonl, line 1: expected an object {…}, found list")
    assert notes[-1] in (tmp_path / "out" / "compare.md").read_text()
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000


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
