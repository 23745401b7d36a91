"""Windows: every frame of the input once, from a window in which it has company on both sides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.config import FeatureConfig
from asr.errors import InputError
from asr.nn.features.kaldi import Fbank
from asr.transcribe.windows import Grid, Window, WindowCutter, make_grid

FRAME = 640


def cut(samples_n: np.ndarray, grid: Grid, block: int) -> list[Window]:
    cutter = WindowCutter(grid)
    windows = []
    for start in range(0, len(samples_n), block):
        windows += cutter.push(samples_n[start : start + block])
    return windows + cutter.finish()


@settings(max_examples=150, deadline=None)
@given(
    num_samples=st.integers(1, 40_000),
    window=st.integers(2, 30),
    half_overlap=st.integers(0, 7),
    block=st.sampled_from([37, 640, 5000, 100_000]),
)
def test_every_frame_once_in_order_with_company(
    num_samples: int, window: int, half_overlap: int, block: int
) -> None:
    """Samples carry their own numbers, so what a window holds is seen from outside."""
    grid = Grid(FRAME, window, min(2 * half_overlap, window // 2 // 2 * 2))
    samples_n = np.arange(num_samples, dtype=np.float32)
    windows = cut(samples_n, grid, block)
    next_frame = 0
    for item in windows:
        start = item.first_frame * FRAME
        np.testing.assert_array_equal(
            item.samples_n, samples_n[start : start + len(item.samples_n)]
        )
        assert len(item.samples_n) <= window * FRAME
        assert item.first_frame + item.keep_first == next_frame
        if item is windows[-1]:
            assert item.ends_span
            assert start + len(item.samples_n) == num_samples
            break
        assert not item.ends_span
        assert item.num_kept is not None
        next_frame += item.num_kept
        assert next_frame * FRAME < num_samples
        if next_frame > item.num_kept:
            assert item.keep_first >= grid.overlap // 2, "context before"
        assert item.keep_first + item.num_kept <= window - grid.overlap // 2, "context after"
    if num_samples > window * FRAME:
        assert len(windows[-1].samples_n) > (window - 1) * FRAME, "the last window is no stump"
    assert len({id(item) for item in windows}) == len(windows)


@pytest.mark.parametrize("snip_edges", [True, False])
@pytest.mark.parametrize("num_samples", [70_000, 70_400, 71_111, 16_000, 399])
def test_features_of_windows_are_those_of_the_whole(snip_edges: bool, num_samples: int) -> None:
    """The grid is the filterbank's: in the middle of a window features are the same numbers, and
    windows have together as many frames as the whole."""
    fbank = Fbank(FeatureConfig(snip_edges=snip_edges))
    wave_n = np.random.default_rng(1).uniform(-0.5, 0.5, num_samples).astype("f4")

    def features(samples_n: np.ndarray) -> torch.Tensor:
        return fbank(torch.from_numpy(samples_n)[None], torch.tensor([len(samples_n)]))[0][0]

    whole_tf = features(wave_n)
    num_frames = 0
    for item in cut(wave_n, Grid(FRAME, 40, 8), 5000):
        own_tf = features(item.samples_n)
        # four feature frames are one frame of the encoder
        kept = slice(4 * item.keep_first, None)
        if item.num_kept is not None:
            kept = slice(4 * item.keep_first, 4 * (item.keep_first + item.num_kept))
        start = 4 * (item.first_frame + item.keep_first)
        torch.testing.assert_close(own_tf[kept], whole_tf[start : start + len(own_tf[kept])])
        num_frames += len(own_tf[kept])
    assert num_frames == len(whole_tf)


def test_windows_and_overlaps_that_do_not_fit_are_refused() -> None:
    assert make_grid(FRAME, 16000, 30.0, 4.0) == Grid(FRAME, 750, 100)
    for window_s, overlap_s in ((10.0, 6.0), (0.01, 0.0)):
        with pytest.raises(InputError, match="overlap"):
            make_grid(FRAME, 16000, window_s, overlap_s)
