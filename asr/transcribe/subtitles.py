"""Words to subtitles under the usual rules: short lines, readable speed, breaks at pauses.

The numbers are those that broadcasters and streaming services agree on. A cue shows as long as its
words sound, and longer where they would be gone too fast and the next cue leaves room. Which words
share a cue is found by dynamic programming over the cost of every allowed cue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from asr.transcribe.result import Word

MAX_LINE_CHARS = 42
MAX_LINES = 2
MIN_CUE_S = 5 / 6
MAX_CUE_S = 7.0
CHARS_PER_S = 17.0
# Silence inside a cue: from this on the text would stand there with nobody speaking.
MAX_PAUSE_INSIDE_S = 1.5
# A pause of this length is as good a place to break as any longer one.
GOOD_PAUSE_S = 0.4


@dataclass(frozen=True)
class Cue:
    start_s: float
    end_s: float
    lines: tuple[str, ...]


def make_cues(words: Sequence[Word], duration_s: float) -> list[Cue]:
    """Subtitles of words in order; none overlaps another or outlives ``duration_s``.

    Lines, their number and ``MAX_CUE_S`` always hold. ``MIN_CUE_S`` and ``CHARS_PER_S`` hold where
    the speaker leaves the time.
    """
    words = [piece for word in words for piece in _pieces(word)]
    limits_s = [word.start_s for word in words[1:]] + [duration_s]
    best_cost = [0.0] + [math.inf] * len(words)
    best_first = [0] * (len(words) + 1)
    for end in range(1, len(words) + 1):
        for first in range(end - 1, -1, -1):
            if not _may_share(words[first:end]):
                break
            cost = best_cost[first] + _cost(words[first:end], limits_s[end - 1])
            if cost < best_cost[end]:
                best_cost[end], best_first[end] = cost, first
    cues: list[Cue] = []
    end = len(words)
    while end:
        first = best_first[end]
        group = words[first:end]
        shown_s = _shown_s(group, limits_s[end - 1])
        cues.append(Cue(group[0].start_s, group[0].start_s + shown_s, _lines(group)))
        end = first
    return cues[::-1]


def _pieces(word: Word) -> list[Word]:
    """A word, cut where it is longer than a line."""
    count = math.ceil(len(word.text) / MAX_LINE_CHARS)
    if count <= 1:
        return [word]
    step_s = (word.end_s - word.start_s) / count
    return [
        Word(
            word.text[i * MAX_LINE_CHARS : (i + 1) * MAX_LINE_CHARS],
            word.start_s + i * step_s,
            word.start_s + (i + 1) * step_s,
            word.confidence,
        )
        for i in range(count)
    ]


def _may_share(group: Sequence[Word]) -> bool:
    if len(group) == 1:
        return True
    return (
        group[-1].end_s - group[0].start_s <= MAX_CUE_S
        and group[1].start_s - group[0].end_s <= MAX_PAUSE_INSIDE_S
        and all(len(line) <= MAX_LINE_CHARS for line in _lines(group))
    )


def _lines(group: Sequence[Word]) -> tuple[str, ...]:
    """One line where it fits, else the two that are most alike in length."""
    text = " ".join(word.text for word in group)
    if len(text) <= MAX_LINE_CHARS:
        return (text,)
    spaces = [i for i, char in enumerate(text) if char == " "]
    if not spaces:
        return (text,)
    # the upper line may be the shorter one: it hides less of the picture
    middle = min(spaces, key=lambda i: (max(i, len(text) - i - 1), i))
    return text[:middle], text[middle + 1 :]


def _shown_s(group: Sequence[Word], limit_s: float) -> float:
    """How long the cue stays: until its last word ends, longer for slow readers if there is room."""
    spoken_s = group[-1].end_s - group[0].start_s
    wanted_s = max(spoken_s, MIN_CUE_S, _num_chars(group) / CHARS_PER_S)
    room_s = max(limit_s - group[0].start_s, 0.0)
    return min(wanted_s, room_s, MAX_CUE_S)


def _num_chars(group: Sequence[Word]) -> int:
    return sum(len(word.text) for word in group) + len(group) - 1


def _cost(group: Sequence[Word], limit_s: float) -> float:
    """1 for each cue, so fewer are better, and more for one that is short, dense or badly cut."""
    shown_s = max(_shown_s(group, limit_s), 1e-3)
    short = max(0.0, 1 - shown_s / MIN_CUE_S)
    dense = max(0.0, _num_chars(group) / shown_s / CHARS_PER_S - 1)
    pause_s = limit_s - group[-1].end_s
    torn = 0.0 if group[-1].text[-1:] in ".?!,;:" else max(0.0, 1 - pause_s / GOOD_PAUSE_S)
    return 1 + 4 * short + 2 * min(dense, 2.0) + 2 * torn
