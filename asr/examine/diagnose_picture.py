"""A diagnosis as a picture: a map of layers and heads per number of heads, a curve over the layers per
number of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asr.examine.attention_maps import CrossMaps
from asr.examine.diagnose import Report
from asr.files import write_atomically
from asr.pictures import COLOURS, as_png, new_figure
from asr.probe.diagnostics import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Rows of a map that still have room for their names.
_MOST_LABELS = 40
# Heads whose maps are drawn.
_MOST_MAPS = 4


def draw(report: Report, path: Path) -> None:
    """Write a PNG.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    layers = report.diagnosis.layers
    groups = {
        "encoder": [layer for layer in layers if layer.name.startswith("layer")],
        "decoder": [layer for layer in layers if layer.name.startswith("decoder")],
    }
    groups = {name: group for name, group in groups.items() if group}
    heights = [2.0] * len(groups) + ([] if report.across is None else [1.4])
    figure = new_figure(12, 3 * sum(heights))
    figure.suptitle(f"{report.what}: {len(report.ids)} utterances, {report.model}", fontsize=10)
    panels = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, (name, group) in zip(panels, groups.items(), strict=False):
        if len(groups) > 1:
            panel.suptitle(name, fontsize=10)
        unit = "frames" if name == "encoder" else "tokens"
        _draw_layers(group, f"weight within {report.near_frames} {unit}", *panel.subplots(2, 4))
    if report.across is not None:
        panels[-1].suptitle(f"cross-attention in {report.ids[0]}, last layer", fontsize=10)
        _draw_across(report.across, panels[-1].subplots(1, _MOST_MAPS))
    write_atomically(path, as_png(figure))


def _draw_layers(
    layers: Sequence[Layer], near: str, maps: Sequence[Axes], curves: Sequence[Axes]
) -> None:
    for axes, name, title, most in (
        (maps[0], "of_uniform", "entropy over that of uniform", 1.0),
        (maps[1], "row_sum", "mean row sum", None),
        (maps[2], "largest_logit", "largest logit", None),
        (maps[3], "near", near, 1.0),
    ):
        values = [[getattr(head, name) for head in layer.heads] for layer in layers]
        _map(axes, values, [_short(layer) for layer in layers], title, most)
    for axes, name, title in (
        (curves[0], "residual_norm", "norm of the residual"),
        (curves[1], "output_norm", "norm that attention adds"),
        (curves[2], "gradient_norm", "gradient norm of attention"),
        (curves[3], "jacobian_norm", "Jacobian norm of attention"),
    ):
        # of a decoder's layer, self- and cross-attention
        of_kinds: dict[str, list[float]] = {}
        for layer in layers:
            of_kinds.setdefault(layer.name.partition(".")[2], []).append(getattr(layer, name))
        _curves(axes, of_kinds, title)


def _short(layer: Layer) -> str:
    """Return the number of an encoder's layer; "1.self" and so on of a decoder's."""
    return layer.name.removeprefix("layer").removeprefix("decoder")


def _draw_across(across: CrossMaps, panels: Sequence[Axes]) -> None:
    """Draw the first heads of the last layer, tokens down and frames to the right."""
    p_hus = across.p_lhus[-1].numpy()
    labelled = len(across.pieces) <= _MOST_LABELS
    for axes in panels[len(p_hus) :]:
        axes.set_axis_off()
    for head, (axes, p_us) in enumerate(zip(panels, p_hus, strict=False), start=1):
        # as square roots, so that small weights show
        axes.imshow(np.abs(p_us) ** 0.5, aspect="auto", cmap="viridis", interpolation="nearest")
        axes.set_title(f"head {head}", fontsize=9)
        axes.set_xlabel("frame")
        if labelled:
            axes.set_yticks(range(len(across.pieces)), across.pieces, fontsize=6)
        else:
            axes.set_ylabel("token")


def _map(
    axes: Axes,
    values: Sequence[Sequence[float]],
    names: Sequence[str],
    title: str,
    most: float | None,
) -> None:
    lowest = None if most is None else 0.0
    image = axes.imshow(
        np.array(values), aspect="auto", cmap="viridis", origin="lower", vmin=lowest, vmax=most
    )
    axes.figure.colorbar(image, ax=axes)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    axes.set_xticks(range(len(values[0])), [str(k + 1) for k in range(len(values[0]))])
    axes.set_yticks(range(len(values)), names, fontsize=8)


def _curves(axes: Axes, of_kinds: Mapping[str, Sequence[float]], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for (kind, values), colour in zip(of_kinds.items(), COLOURS, strict=False):
        numbers = range(1, len(values) + 1)
        axes.plot(numbers, values, "-o", color=colour, markersize=3, label=kind)
    if len(of_kinds) > 1:
        axes.legend(fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
