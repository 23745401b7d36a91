"""Pieces: cut at pauses, none of the frames lost, memory bounded, greedy's words unchanged."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asr.config import CtcConfig
from asr.heads.ctc import Ctc
from asr.search.greedy import greedy
from asr.search.units import Units
from asr.transcribe.pieces import Piece, PieceCutter

FRAME_S = 0.04
# blank, space, a, b
HEAD = Ctc(CtcConfig(), dim=1, vocab_size=4)
UNITS = Units(begins_v=(False, True, False, False), letters_v=("", "", "a", "b"))


def path_to_log_probs(path_t: list[int]) -> np.ndarray:
    return np.log(np.full((len(path_t), 4), 0.1) + 0.6 * np.eye(4)[path_t]).astype("f4")


def cut(path_t: list[int], block: int) -> list[Piece]:
    cutter = PieceCutter(HEAD, UNITS, FRAME_S)
    log_probs_tv = path_to_log_probs(path_t)
    pieces = []
    for start in range(0, len(path_t), block):
        pieces += cutter.push(start, log_probs_tv[start : start + block])
    return pieces + cutter.flush()


def words(log_probs_tv: np.ndarray) -> list[str]:
    best = greedy(torch.from_numpy(log_probs_tv)[None], torch.tensor([len(log_probs_tv)]))[0]
    return UNITS.spell(best.tokens)


@st.composite
def paths(draw: st.DrawFn) -> list[int]:
    """Runs of tokens; a blank run is either shorter than a pause or has a space before it."""
    runs = draw(
        st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(1, 14)), max_size=120)
    )
    path_t: list[int] = []
    for token, length in runs:
        if token == 0 and path_t and path_t[-1] == 0:
            path_t.append(1)
        path_t += [token] * length
        if token == 0 and draw(st.booleans()):
            path_t += [1] + [0] * draw(st.integers(10, 200))
    return path_t


def test_sound_of_the_greatest_length_is_one_piece() -> None:
    """30 s without a pause, as of a head that says nothing of single frames, or of a front end that
    fills utterances up."""
    assert [len(piece.frames_tx) for piece in cut([2, 3] * 375, 10)] == [750]
    assert sum(len(piece.frames_tx) for piece in cut([2, 3] * 375 + [2], 10)) == 751


@settings(max_examples=150, deadline=None)
@given(paths(), st.sampled_from([1, 10, 300, 100_000]))
def test_pieces_are_the_frames_and_have_the_words(path_t: list[int], block: int) -> None:
    pieces = cut(path_t, block)
    assert [
        frame for p in pieces for frame in range(p.first_frame, p.first_frame + len(p.frames_tx))
    ] == list(range(len(path_t)))
    if not pieces:
        return
    whole_tv = np.concatenate([piece.frames_tx for piece in pieces])
    np.testing.assert_array_equal(whole_tv, path_to_log_probs(path_t))
    assert [word for p in pieces for word in words(p.frames_tx)] == words(whole_tv)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(1, 60)), max_size=200),
    st.sampled_from([1, 8, 300]),
)
def test_pieces_have_the_tokens_of_the_whole_whatever_the_blocks(
    runs: list[tuple[int, int]], block: int
) -> None:
    """Any path whose tokens last for less than a piece: long spaces, no pauses, no end of pauses."""
    path_t = [token for token, length in runs for _ in range(length)]
    assume(all(len(list(run)) < 700 for _, run in itertools.groupby(path_t)))
    pieces = cut(path_t, 1_000_000)
    assert [len(p.frames_tx) for p in cut(path_t, block)] == [len(p.frames_tx) for p in pieces]
    tokens = [token for p in pieces for token in collapsed(p.frames_tx.argmax(1).tolist())]
    assert tokens == collapsed(path_t)


def test_without_pauses_too_the_blocks_make_no_difference() -> None:
    rng = np.random.default_rng(0)
    path_t = np.repeat(rng.choice([0, 2, 3], 1000), rng.integers(1, 4, 1000)).tolist()
    lengths = [len(piece.frames_tx) for piece in cut(path_t, 1)]
    assert len(lengths) > 2
    for block in (8, 300, 1_000_000):
        assert [len(piece.frames_tx) for piece in cut(path_t, block)] == lengths


def collapsed(path_t: list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(path_t) if token]


def test_pauses_separate() -> None:
    said, pause = [2, 3, 0, 2], [0] * 20
    pieces = cut(pause + said + pause + said + [0] * 5 + said + pause, 7)
    assert [words(piece.frames_tx) for piece in pieces] == [["aba"], ["abaaba"], []]


def test_what_never_pauses_and_what_is_silent_are_cut_too() -> None:
    for path_t in ([2, 3] * 4000, [0] * 8000, [2] * 8000):
        pieces = cut(path_t, 50)
        assert max(len(piece.frames_tx) for piece in pieces) * FRAME_S < 35
    assert "".join("".join(words(p.frames_tx)) for p in cut([2, 3] * 4000, 50)) == "ab" * 4000
