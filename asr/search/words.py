"""Words of a hypothesis with their times and confidences, from its tokens and their frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asr.search.hypothesis import Hypothesis
from asr.search.units import Units
from asr.text.tokenizer import BLANK


@dataclass(frozen=True)
class Word:
    """Attributes:
    start_s, end_s: seconds from the first sample of the audio.
    confidence: from 0 to 1: the geometric mean, over the word's tokens, of the highest
        probability that each reaches.
    """

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True)
class Spans:
    """Places of tokens.

    Attributes:
        first_frames, end_frames: of each token the first frame, and the one after the last.
        log_probs: the highest log-probability that each token reaches.
    """

    first_frames: tuple[int, ...]
    end_frames: tuple[int, ...]
    log_probs: tuple[float, ...]


# CTC emits a word's first letter when it has heard enough of it, not at its onset: on the mini
# corpus 50 ms late in the median, the same on the development part, where this constant was
# measured, and on the test part, where the median error it leaves is 18 ms.
START_SHIFT_S = -0.05


def words_of(
    hypothesis: Hypothesis,
    log_probs_tv: NDArray[np.floating],
    units: Units,
    frame_s: float,
    start_shift_s: float = START_SHIFT_S,
) -> list[Word]:
    """The words of a hypothesis, see ``words_at``, by its alignment to CTC's frames.

    Args:
        hypothesis: from a search over ``log_probs_tv``, whose frames count from its first one.
        log_probs_tv: (frames, tokens), natural-log probabilities.
        units: of the model's tokenizer.
        frame_s: seconds between frames: the feature hop times the subsampling.
        start_shift_s: added to the start of every word; times never leave the audio.
    """
    tokens, firsts = hypothesis.tokens, hypothesis.frames
    ends = end_frames(log_probs_tv, tokens, firsts)
    peaks = (
        log_probs_tv[first:end, token].max()
        for token, first, end in zip(tokens, firsts, ends, strict=True)
    )
    spans = Spans(tuple(firsts), ends, tuple(map(float, peaks)))
    return words_at(tokens, spans, len(log_probs_tv) * frame_s, units, frame_s, start_shift_s)


def words_at(
    tokens: Sequence[int],
    spans: Spans,
    total_s: float,
    units: Units,
    frame_s: float,
    start_shift_s: float = 0.0,
) -> list[Word]:
    """Return the words of tokens at known places, in order and without overlap.

    A word lasts from the first frame of its first token, shifted, to the last frame of its last one, or
    to the beginning of the next word.

    Args:
        total_s: seconds of all frames.
    """
    words: list[Word] = []
    for positions in units.split(tokens):
        start_s = spans.first_frames[positions[0]] * frame_s + start_shift_s
        start_s = min(max(start_s, words[-1].start_s if words else 0.0), total_s)
        if words and words[-1].end_s > start_s:
            words[-1] = replace(words[-1], end_s=start_s)
        peaks = [spans.log_probs[i] for i in positions]
        words.append(
            Word(
                text="".join(units.letters_v[tokens[i]] for i in positions),
                start_s=start_s,
                end_s=spans.end_frames[positions[-1]] * frame_s,
                confidence=float(np.exp(np.mean(peaks, dtype=np.float64))),
            )
        )
    return words


def one_per_text(hypotheses: Sequence[Hypothesis], units: Units) -> list[Hypothesis]:
    """Return the first of the hypotheses that spell the same words, in their order.

    A doubled space, one at the end, another division into pieces: tokens differ, words do not. The
    score stays the first one's; the others' probabilities are not added to it, so that the best
    hypothesis and its score are the same however many are asked for.
    """
    first: dict[tuple[str, ...], Hypothesis] = {}
    for hypothesis in hypotheses:
        first.setdefault(tuple(units.spell(hypothesis.tokens)), hypothesis)
    return list(first.values())


def end_frames(
    log_probs_tv: NDArray[np.floating],
    tokens: Sequence[int],
    first_frames: Sequence[int],
    blank: int = BLANK,
) -> tuple[int, ...]:
    """The frame after the last one of each token, in the likeliest alignment with these first frames.

    Between two first frames a token is repeated, then blanks follow: where it stops is where the
    sum over both is highest. Between two equal tokens at least one blank stands.
    """
    ends = []
    limits = [*first_frames[1:], len(log_probs_tv)][: len(tokens)]
    for i, (token, begin, limit) in enumerate(zip(tokens, first_frames, limits, strict=True)):
        repeats = i + 1 < len(tokens) and tokens[i + 1] == token
        # after the first frame every one is the token's or a blank's, and the token's come first
        gain_t = (
            log_probs_tv[begin + 1 : limit - repeats, token]
            - (log_probs_tv[begin + 1 : limit - repeats, blank])
        )
        best = int(np.argmax([0.0, *itertools.accumulate(gain_t.tolist())]))
        ends.append(begin + 1 + best)
    return tuple(ends)
