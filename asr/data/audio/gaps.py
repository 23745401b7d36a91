"""Parts of an input that could not be used."""

from __future__ import annotations

from dataclasses import dataclass

# Gaps of one reason that are closer than this are told as one.
_MERGE_S = 0.1


@dataclass(frozen=True)
class Gap:
    """A part of the input that was not transcribed. ``end_s`` is None where nobody can know it."""

    start_s: float
    end_s: float | None
    reason: str

    def describe(self, name: str) -> str:
        """One line for people about a gap in ``name``."""
        until = "the end" if self.end_s is None else f"{self.end_s:.2f} s"
        return f"{name}: not transcribed from {self.start_s:.2f} s to {until}: {self.reason}"


@dataclass(frozen=True)
class Remark(Gap):
    """Something about samples that were all used; it is in a list of gaps, but is none."""

    def describe(self, name: str) -> str:
        return f"{name}: {self.reason}"


def note_gap(gap: Gap, gaps: list[Gap]) -> None:
    """Append it, or join it to one of the same reason shortly before."""
    before = gaps[-1] if gaps and gaps[-1].reason == gap.reason else None
    if before and before.end_s is not None and gap.start_s - before.end_s < _MERGE_S:
        gaps[-1] = Gap(before.start_s, gap.end_s, gap.reason)
    else:
        gaps.append(gap)
