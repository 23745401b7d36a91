"""Training curves of several experiments in one picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr.errors import InputError
from asr.files import parse_object, read_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# What a picture's axis can hold; an infinite value is above, and NaN is not below.
_MAX_STEP, _MAX_VALUE = 1 << 53, 1e300


@dataclass(frozen=True)
class Curves:
    """What ``log.jsonl`` says of a run: (step, value) pairs in order."""

    name: str
    train_loss: list[tuple[int, float]]
    valid_loss: list[tuple[int, float]]
    valid_wer: list[tuple[int, float]]


def draw_curves(folders: Sequence[Path]) -> bytes:
    """Training loss, dev loss and dev WER over the steps of each experiment, as a PNG.

    Raises:
        InputError: matplotlib is not installed, no ``log.jsonl`` in a folder, or a line of it that
            is not a record.
    """
    runs = [read_curves(folder) for folder in folders]
    figure = new_figure(11, 4.2)
    loss_axes, wer_axes = figure.subplots(1, 2, sharex=True)
    for number, run in enumerate(runs):
        colour = COLOURS[number % len(COLOURS)]
        _draw(loss_axes, run.train_loss, colour, f"{run.name}, training", "-", alpha=0.55)
        _draw(loss_axes, run.valid_loss, colour, f"{run.name}, dev", "--o")
        percents = [(step, 100 * wer) for step, wer in run.valid_wer]
        _draw(wer_axes, percents, colour, run.name, "-o")
    _label(loss_axes, "loss")
    _label(wer_axes, "dev WER, %")
    if not any(run.valid_wer for run in runs):
        wer_axes.text(0.5, 0.5, "not validated yet", ha="center", transform=wer_axes.transAxes)
    return as_png(figure)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'sigmoid-asr[plot]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def as_png(figure: Figure) -> bytes:
    _read_no_formulas(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    return picture.getvalue()


def _read_no_formulas(figure: Figure) -> None:
    """Names are a user's, and a $ in them is a dollar; 10^k at a logarithmic axis stays a formula."""
    from matplotlib.text import Text

    axes = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    powers = {
        text
        for axis in axes
        if axis.get_scale() == "log"
        for text in axis.get_ticklabels(which="both")
    }
    for text in figure.findobj(Text):
        text.set_parse_math(text in powers)


def read_curves(folder: Path) -> Curves:
    """The curves of EXP/log.jsonl; points that are not finite are left out.

    Raises:
        InputError: it cannot be read, or a line is not a record.
    """
    path = folder / "log.jsonl"
    lines = read_text(path).split("\n")
    # A run that was killed may have left its last line unfinished.
    records = [_record(line, f"{path}, line {k}") for k, line in enumerate(lines[:-1], 1) if line]
    return Curves(
        name=folder.resolve().name,
        train_loss=_series(records, "train", "loss"),
        valid_loss=_series(records, "valid", "loss"),
        valid_wer=_series(records, "valid", "wer"),
    )


def _record(line: str, where: str) -> dict[str, Any]:
    record = parse_object(line, where)
    step = record.get("step")
    if type(step) is not int or not 0 <= step < _MAX_STEP:
        raise InputError(f"{where}: not a record with a step")
    return record


def _series(records: Sequence[dict[str, Any]], kind: str, key: str) -> list[tuple[int, float]]:
    return [
        (record["step"], float(record[key]))
        for record in records
        if record.get("kind") == kind
        and isinstance(record.get(key), (int, float))
        and abs(record[key]) <= _MAX_VALUE
    ]


def _draw(
    axes: Axes,
    points: Sequence[tuple[int, float]],
    colour: str,
    label: str,
    style: str,
    alpha: float = 1.0,
) -> None:
    if points:
        steps, values = zip(*points, strict=True)
        axes.plot(
            steps,
            values,
            style,
            color=colour,
            label=label,
            alpha=alpha,
            markersize=3,
            linewidth=1.4,
        )


def _label(axes: Axes, quantity: str) -> None:
    axes.set_xlabel("step")
    axes.set_ylabel(quantity)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)
