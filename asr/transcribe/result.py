"""Results of a transcription: text, segments, words with times and confidence, what is missing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from asr.data.audio.gaps import Gap
from asr.search.words import Word

__all__ = ["Alternative", "Gap", "Segment", "Transcript", "Word"]

_DIGITS = 3  # of seconds and confidences where they are written: a millisecond


@dataclass(frozen=True)
class Alternative:
    """One candidate of an n-best list and its natural-log score."""

    text: str
    score: float


@dataclass(frozen=True)
class Segment:
    """Words between two pauses.

    Attributes:
        alternatives: beam search's n-best, best first, else empty.
        note: why the words may be wrong, where the search had to end them; else empty.
    """

    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...]
    alternatives: tuple[Alternative, ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, see ``rounded``; without the note where there is none."""
        found: dict[str, Any] = rounded(asdict(self))
        if not self.note:
            del found["note"]
        return found


@dataclass(frozen=True)
class Transcript:
    """Result of one input; ``str()`` gives the text.

    Attributes:
        name: the path, a cut's id, ``-`` for standard input, "" for an array.
        duration_s: of the sound that could be read; what lies in no gap was transcribed.
        channel: the one that was transcribed, from 0; None is the mean of all.
        notes: what was unusual about the sound (channels that cancel, an odd scale, very quiet), or
            about finding its words.
    """

    name: str
    text: str
    segments: tuple[Segment, ...]
    duration_s: float
    gaps: tuple[Gap, ...] = ()
    channel: int | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON, see ``rounded``. Without the channel, which
        people count from 1, and without notes where there are none."""
        found: dict[str, Any] = rounded(asdict(self))
        found["segments"] = [segment.to_dict() for segment in self.segments]
        del found["channel"]
        if not self.notes:
            del found["notes"]
        return found


def rounded(value: Any) -> Any:
    """A value for JSON, its floats with three digits."""
    if isinstance(value, float):
        return round(value, _DIGITS)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return value
