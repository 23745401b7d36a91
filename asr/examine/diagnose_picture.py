"""A diagnosis as a picture: a map of layers and heads per number of heads, a curve over the layers per
number of layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr.examine.diagnose import Report
from asr.files import write_atomically
from asr.pictures import COLOURS, as_png, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(report: Report, path: Path) -> None:
    """Writes a PNG.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    layers = report.diagnosis.layers
    figure = new_figure(12, 6)
    figure.suptitle(f"{report.what}: {len(report.ids)} utterances, {report.model}", fontsize=10)
    maps, curves = figure.subplots(2, 4)
    near = f"weight within {report.near_frames} frames"
    for axes, name, title, most in (
        (maps[0], "of_uniform", "entropy over that of uniform", 1.0),
        (maps[1], "row_sum", "mean row sum", None),
        (maps[2], "largest_logit", "largest logit", None),
        (maps[3], "near", near, 1.0),
    ):
        _map(axes, [[getattr(head, name) for head in layer.heads] for layer in layers], title, most)
    _curve(curves[0], [layer.residual_norm for layer in layers], "norm of the residual")
    _curve(curves[1], [layer.output_norm for layer in layers], "norm that attention adds")
    _curve(curves[2], [layer.gradient_norm for layer in layers], "gradient norm of attention")
    _curve(curves[3], [layer.jacobian_norm for layer in layers], "Jacobian norm of attention")
    write_atomically(path, as_png(figure))


def _map(axes: Axes, values: Sequence[Sequence[float]], title: str, most: float | None) -> None:
    lowest = None if most is None else 0.0
    image = axes.imshow(
        np.array(values), aspect="auto", cmap="viridis", origin="lower", vmin=lowest, vmax=most
    )
    axes.figure.colorbar(image, ax=axes)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(len(values[0])), [str(k + 1) for k in range(len(values[0]))])
    axes.set_yticks(range(len(values)), [str(k + 1) for k in range(len(values))])


def _curve(axes: Axes, values: Sequence[float], title: str) -> None:
    axes.plot(range(1, len(values) + 1), values, "-o", color=COLOURS[0], markersize=3)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("layer")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
