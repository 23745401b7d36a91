"""An option: a field with its meaning, its bounds and what may become of it when a run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Any

# What may become of an option when a run goes on.
FIXED = "fixed"
FREE = "free"
"""Another value changes no result but for rounding, or only when a run is saved or gives up."""
REPORTED = "reported"
"""Another value is a wish for another result from here on: it is taken and reported."""
CONTENT = "content"
"""Files that must hold the same, wherever they lie."""


def option(
    default: Any,
    meaning: str,
    *,
    choices: Sequence[str | int] | None = None,
    low: float | None = None,
    high: float | None = None,
    on_resume: str = FIXED,
) -> Any:
    """A dataclass field with the documentation and bounds that ``load`` checks (both inclusive).

    A number needs both: a stranger's configuration decides how much memory is asked for.
    ``on_resume``: whether it may be another when a run goes on.
    """
    metadata = {
        "help": meaning,
        "choices": choices,
        "low": low,
        "high": high,
        "on_resume": on_resume,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
