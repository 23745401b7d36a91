"""Parts that all pictures share: the palette, an empty figure, and a figure as a file."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from asr.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, told apart by colour-blind readers too; grey, which shows on light and on
# dark paper, in place of its black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")


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
